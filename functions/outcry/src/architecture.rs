//! What holds for the whole house, checked by a machine: one name everywhere, who may depend on whom, nothing
//! declared that is not there and nothing there that is not declared.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use platform::Wakes;
use serde_json::{Value, json};

use crate::*;

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

/// Its file, its binary, its entry in the manifest, its row in the README; and nothing there that is no function.
#[test]
fn every_function_is_found_under_one_name_everywhere() {
    let readme = read(&root().join("README.md"));
    let rows: Vec<&str> = functions_table(&readme).collect();
    let mut names = BTreeSet::new();
    for database in databases() {
        let domain = database.domain;
        let folder = root().join("functions").join(domain);
        let manifest = read(&folder.join("Cargo.toml"));
        let mut bins: BTreeSet<String> = files(&folder.join("src/bin")).collect();
        for function in functions().iter().filter(|function| function.spec().domain == domain) {
            let name = function.spec().name;
            assert!(names.insert(name), "{name} is there twice");
            let file = folder.join("src").join(format!("{}.rs", name.replace('-', "_")));
            let head = format!("//! `{name}`: ");
            assert!(read(&file).starts_with(&head), "{} does not begin with {head}", file.display());
            assert!(bins.remove(name), "{domain} has no src/bin/{name}.rs");
            let entry = format!("[[bin]]\nname = \"{name}\"\ntest = false\n");
            assert!(manifest.contains(&entry), "{domain}/Cargo.toml has no entry of {name}");
            assert!(rows.contains(&name), "README.md has no row of {name}");
        }
        bins.remove(&format!("{domain}-relay"));
        assert!(bins.is_empty(), "{domain} has binaries that are no functions: {bins:?}");
        assert!(!folder.join("tests").exists(), "cargo would build every binary of {domain} for its tests/");
    }
    for row in rows {
        assert!(names.contains(row), "README.md has a row of {row}, which is no function");
    }
}

/// The names in the first column of the README's table of functions.
fn functions_table(readme: &str) -> impl Iterator<Item = &str> {
    let table = readme.split("| function | what wakes it | over HTTP |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).unwrap())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of a folder's files, without their endings.
fn files(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
}

/// A container for each function, relay, the edge and `maintain`, built from the binary of its name and with the
/// password of its own domain; only the edge can be reached from outside.
#[test]
fn the_containers_are_the_programs_that_exist() {
    let compose = read(&root().join("docker-compose.yaml"));
    let services = compose.split("\nservices:\n").nth(1).unwrap().split("\nnetworks:\n").next().unwrap();
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    let mut name = "";
    for line in services.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match line.strip_prefix("  ").and_then(|line| line.strip_suffix(':')) {
            Some(next) if !next.starts_with(' ') => name = next,
            _ => *found.entry(name).or_default() += &format!("{line}\n"),
        }
    }

    let of_domain = functions().into_iter().map(|f| (f.spec().name.to_owned(), f.spec().domain));
    let relays = launch::relayed().into_iter().map(|domain| (format!("{domain}-relay"), domain));
    let alone = [("edge".to_owned(), "part"), ("maintain".to_owned(), "administrator")];
    for (name, common) in of_domain.chain(relays).chain(alone) {
        let service = found.remove(name.as_str());
        let service = service.unwrap_or_else(|| panic!("docker-compose.yaml has no container of {name}"));
        for line in [
            format!("    <<: *{common}\n"),
            format!("    image: outcry/{name}:${{OUTCRY_TAG:-latest}}\n"),
            format!("    build: {{ <<: *build, args: {{ FUNCTION: {name} }} }}\n"),
            // Its own user of the bus, and no other's.
            format!("{{ source: nats_{name}, target: nats_password }}"),
        ] {
            assert!(service.contains(&line), "docker-compose.yaml: {name} has no line\n{line}");
        }
        assert_eq!(service.matches("source: nats_").count(), 1, "{name}");
        assert_eq!(service.contains("    ports:"), name == "edge", "{name}");
        if name != "edge" && name != "maintain" {
            let replicas = format!("${{{}_REPLICAS:-1}}", name.to_uppercase().replace('-', "_"));
            assert!(service.contains(&replicas), "docker-compose.yaml: {name} has no {replicas}");
        }
    }
    let others: Vec<&str> = found.keys().copied().collect();
    assert_eq!(others, ["migrate", "nats", "outcry", "postgres", "provision"]);
    assert!(found.values().all(|service| !service.contains("    ports:")));
}

#[test]
fn a_domain_that_says_something_has_a_relay() {
    let relays =
        |domain: &str| root().join("functions").join(domain).join(format!("src/bin/{domain}-relay.rs"));
    for database in databases() {
        let (domain, says) = (database.domain, launch::relayed().contains(&database.domain));
        assert_eq!(relays(domain).exists(), says, "`just new-relay {domain}` makes the relay of {domain}");
    }
}

#[test]
fn what_functions_say_is_what_the_contracts_know() {
    let said: BTreeSet<&str> =
        functions().iter().flat_map(|function| function.spec().emits.clone()).collect();
    let known: BTreeSet<&str> = contracts::events::all().iter().map(|known| known.name).collect();

    assert_eq!(said, known);
    assert!(known.iter().all(|event| sample(event).is_some()));
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
    let packages = packages();
    let ours: BTreeSet<&str> = packages.iter().map(|(name, _)| name.as_str()).collect();
    let domains: BTreeSet<&str> = databases().iter().map(|database| database.domain).collect();
    for (name, used) in &packages {
        let allowed: &[&str] = match name.as_str() {
            "outcry" => continue,
            "platform" | "local" | "scaffold" => &[],
            "testing" => &["platform", "local"],
            "prepare-sql" => &["local"],
            "contracts" => &["platform"],
            "edge" => &["platform", "contracts"],
            domain if domains.contains(domain) => &["platform", "contracts"],
            unknown => panic!("{unknown} has no place in the line yet: give it one here"),
        };
        for used in used.iter().filter(|used| ours.contains(used.as_str())) {
            assert!(allowed.contains(&used.as_str()), "{name} must not depend on {used}");
        }
    }
}

/// What a function cannot reach it cannot do: publish, acknowledge, answer HTTP.
#[test]
fn only_the_machinery_touches_the_bus_and_only_the_edge_speaks_http() {
    for (library, users) in [("async-nats", &["platform", "testing"][..]), ("axum", &["edge"][..])] {
        for (name, used) in packages() {
            let may = users.contains(&name.as_str());
            assert!(may || !used.contains(library), "{name} must not depend on {library}");
        }
    }
}

/// Our packages, and what each depends on outside of its tests.
fn packages() -> Vec<(String, BTreeSet<String>)> {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter().map(|package| {
        let used = package["dependencies"].as_array().unwrap().iter();
        let normal = used.filter(|used| used["kind"].is_null()).map(|used| text(&used["name"]));
        (text(&package["name"]), normal.collect())
    });
    packages.collect()
}
