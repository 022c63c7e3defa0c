//! The whole platform in one process, and the command line.
//!
//! Everything here is put together from the domains' menus: the same functions that run alone from
//! their own binaries run here side by side.

pub mod control;
pub mod demo;
pub mod launch;
mod parts;
mod services;

use include_dir::{Dir, include_dir};
use platform::{Function, database::Database, provision::Definitions};

/// The files that describe the bus, as they were when this was built.
static NATS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../nats");

/// Every function, domain by domain.
pub fn functions() -> Vec<Function> {
    [identity::functions(), auctions::functions(), stats::functions()].concat()
}

/// Every domain's database.
pub fn databases() -> Vec<Database> {
    vec![identity::database(), auctions::database(), stats::database()]
}

/// The streams and consumers under `nats/`.
pub fn definitions() -> anyhow::Result<Definitions> {
    let mut folders = vec![&NATS];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        folders.extend(folder.dirs());
        files.extend(folder.files());
    }
    files.sort_by_key(|file| file.path());
    let texts = files.iter().filter_map(|file| Some((file.path().to_str()?, file.contents_utf8()?)));
    Definitions::from_files(texts)
}

/// The configuration of nats-server.
pub fn nats_config() -> &'static str {
    NATS.get_file("server.conf").and_then(|file| file.contents_utf8()).unwrap_or_default()
}

/// The golden sample of an event, as it would go over the bus.
pub fn sample(event: &str) -> Option<&'static str> {
    NATS.get_file(format!("samples/{event}.json")).and_then(|file| file.contents_utf8())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use platform::Wakes;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn every_function_that_messages_wake_has_the_consumer_that_its_code_needs() {
        let definitions = definitions().unwrap();
        let mut known = BTreeSet::new();
        for function in functions() {
            let spec = function.spec();
            let Some((stream, subjects)) = spec.consumer() else { continue };
            let found = definitions
                .consumers
                .iter()
                .find(|(of, consumer)| of == stream && consumer["name"] == spec.name)
                .unwrap_or_else(|| panic!("nats/consumers/{stream}/{}.json is missing", spec.name));
            let consumer = &found.1;
            let filters = match &consumer["filter_subjects"] {
                Value::Null => json!([consumer["filter_subject"]]),
                several => several.clone(),
            };
            assert_eq!(filters, json!(subjects), "{}", spec.name);
            assert_eq!(consumer["max_ack_pending"], json!(spec.max_ack_pending()), "{}", spec.name);
            assert_eq!(consumer["durable_name"], spec.name);
            // A secret is tried once; everything else for as long as it takes: attempts are counted by us.
            let secret = spec.wakes == Wakes::Command { secret: true };
            assert_eq!(consumer["max_deliver"], json!(if secret { 1 } else { -1 }), "{}", spec.name);
            known.insert(spec.name);
        }
        for (stream, consumer) in &definitions.consumers {
            assert!(known.contains(consumer["name"].as_str().unwrap()), "{stream}: nobody serves {consumer}");
        }
    }

    #[test]
    fn every_function_has_one_name_and_a_binary_of_that_name() {
        let mut names = BTreeSet::new();
        for function in functions() {
            let spec = function.spec();
            assert!(names.insert(spec.name), "{} is there twice", spec.name);
            let domain = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(spec.domain).join("src");
            let file = format!("{}.rs", spec.name.replace('-', "_"));
            for path in [domain.join(&file), domain.join("bin").join(format!("{}.rs", spec.name))] {
                assert!(path.exists(), "{} is missing", path.display());
            }
        }
    }

    #[test]
    fn whatever_a_consumer_hears_somebody_says() {
        let functions = functions();
        let said: BTreeSet<&str> =
            functions.iter().flat_map(|function| function.spec().emits.iter().copied()).collect();
        for function in &functions {
            let heard = match &function.spec().wakes {
                Wakes::Events(names) => names.to_vec(),
                Wakes::Due(names) => names.clone(),
                _ => continue,
            };
            for name in heard {
                assert!(said.contains(name), "{} waits for {name}", function.spec().name);
            }
        }
    }

    /// `platform <- contracts <- domains, edge <- outcry`: who may depend on whom.
    #[test]
    fn the_direction_of_dependencies_is_a_line() {
        let metadata = std::process::Command::new(env!("CARGO"))
            .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        let ours: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
        let domains: BTreeSet<&str> = databases().iter().map(|database| database.domain).collect();
        for package in packages {
            let name = package["name"].as_str().unwrap();
            let allowed: &[&str] = match name {
                "outcry" => continue,
                "platform" | "local" => &[],
                "testing" => &["platform", "local"],
                "prepare-sql" => &["local"],
                "contracts" => &["platform"],
                "edge" => &["platform", "contracts"],
                domain if domains.contains(domain) => &["platform", "contracts"],
                unknown => panic!("{unknown} has no place in the line yet: give it one here"),
            };
            let normal =
                package["dependencies"].as_array().unwrap().iter().filter(|used| used["kind"].is_null());
            for used in normal.map(|used| used["name"].as_str().unwrap()).filter(|used| ours.contains(used)) {
                assert!(allowed.contains(&used), "{name} must not depend on {used}");
            }
        }
    }
}
