//! The whole platform in one process, and the command line.
//!
//! Everything here is put together from the domains' menus: the same functions that run alone from
//! their own binaries run here side by side.

#[cfg(test)]
mod architecture;
mod audit;
pub mod bench;
pub mod control;
#[cfg(test)]
mod database_rights;
pub mod demo;
pub mod launch;
mod launcher;
mod parts;
pub mod seed;
mod services;
pub mod users;
pub mod verify;
mod visitor;

use std::process::ExitCode;

use include_dir::{Dir, include_dir};
use platform::{Function, database::Database, provision::Definitions};

/// The whole body of a part's binary, and of `outcry run <part>`: a function, a relay, `maintain` or `edge`. None when there
/// is no such part.
pub fn run_part(name: &str) -> Option<ExitCode> {
    if let Some(function) = functions().into_iter().find(|function| function.spec().name == name) {
        return Some(platform::main(function));
    }
    if let Some(domain) = launch::relayed().into_iter().find(|domain| name == format!("{domain}-relay")) {
        return Some(platform::relay_main(domain, name));
    }
    match name {
        "edge" => Some(edge::main()),
        "maintain" => Some(maintain_main()),
        _ => None,
    }
}

/// The whole body of the binary `maintain`: it keeps streams, consumers and databases as they should be.
pub fn maintain_main() -> ExitCode {
    platform::run("maintain", async |env, config, bus, stop| {
        platform::maintain::serve(&env, &config, &bus, &databases(), &definitions()?, stop).await
    })
}

/// The files that describe the bus, as they were when this was built.
static NATS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../nats");

/// Every function, domain by domain.
pub fn functions() -> Vec<Function> {
    [identity::functions(), auctions::functions(), catalog::functions(), stats::functions()].concat()
}

/// Every domain's database.
pub fn databases() -> Vec<Database> {
    vec![identity::database(), auctions::database(), catalog::database(), stats::database()]
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

/// The golden sample of an event, as it would go over the bus.
pub fn sample(event: &str) -> Option<&'static str> {
    NATS.get_file(format!("samples/{event}.json")).and_then(|file| file.contents_utf8())
}
