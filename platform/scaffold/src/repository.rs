//! What is in this repository: its domains, its names, its events.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};

use crate::{names::Name, text};

/// The folders of crates.
const FAMILIES: [&str; 2] = ["platform", "functions"];

/// What comes with a domain: `<domain>-relay` publishes what it says, `<domain>-outcome` tells what became of commands.
pub(crate) const KEPT: [&str; 2] = ["relay", "outcome"];

/// The repository, found from a folder inside it.
pub(crate) struct Repository {
    pub(crate) root: PathBuf,
}

/// An event that somebody says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// `bid.placed.v1`.
    pub(crate) name: String,
    /// `BidPlaced`.
    pub(crate) message: String,
    /// The module of the contracts in which it is.
    pub(crate) module: String,
}

impl Repository {
    /// The folder that holds the workspace, from `here` upwards.
    pub(crate) fn find(here: &Path) -> anyhow::Result<Self> {
        let is_root = |folder: &&Path| {
            folder.join("functions/outcry/src/lib.rs").exists()
                && fs::read_to_string(folder.join("Cargo.toml"))
                    .is_ok_and(|text| text.contains("[workspace]"))
        };
        match here.ancestors().find(is_root) {
            Some(root) => Ok(Self { root: root.to_owned() }),
            None => bail!("{} is not in the repository of Outcry: go there first", here.display()),
        }
    }

    /// The domains: the crates under `functions/` that have a database.
    pub(crate) fn domains(&self) -> anyhow::Result<Vec<String>> {
        let crates = folders(&self.root.join("functions"))?;
        Ok(crates
            .into_iter()
            .filter(|one| self.root.join("functions").join(one).join("sqlx.toml").exists())
            .collect())
    }

    /// Refuses a domain that is not there.
    pub(crate) fn check_domain(&self, domain: &Name) -> anyhow::Result<()> {
        let domains = self.domains()?;
        ensure!(
            domains.iter().any(|one| one == domain.kebab()),
            "there is no domain {domain}: there are {}; `just new-domain {domain}` makes it",
            domains.join(", ")
        );
        Ok(())
    }

    /// Refuses a name that something else has.
    pub(crate) fn check_free(&self, name: &Name) -> anyhow::Result<()> {
        for family in FAMILIES {
            for one in folders(&self.root.join(family))? {
                let path = format!("{family}/{one}/Cargo.toml");
                let Ok(manifest) = fs::read_to_string(self.root.join(&path)) else { continue };
                let taken = manifest.lines().any(|line| line.trim() == format!("name = \"{name}\""));
                ensure!(!taken, "{name} is taken: {path} has a program or a library of that name");
            }
        }
        let workspace = self.read("Cargo.toml")?;
        let is_library = [name.snake().as_str(), name.kebab()]
            .iter()
            .any(|library| text::depends(&workspace, "workspace.dependencies", library));
        ensure!(!is_library, "{name} is taken: a library that functions use has that name");
        Ok(())
    }

    /// Refuses a name that every domain keeps for a part of its own.
    pub(crate) fn check_kept(&self, name: &Name) -> anyhow::Result<()> {
        for domain in self.domains()? {
            let kept = KEPT.iter().any(|part| name.kebab() == format!("{domain}-{part}"));
            ensure!(!kept, "{name} is kept for a part that every domain may have: choose another name");
        }
        Ok(())
    }

    /// Refuses the name of a package that the workspace uses, however far down.
    pub(crate) fn check_free_package(&self, name: &Name) -> anyhow::Result<()> {
        let lock = fs::read_to_string(self.root.join("Cargo.lock")).unwrap_or_default();
        let taken = lock.lines().any(|line| line == format!("name = \"{name}\""));
        ensure!(!taken, "{name} is taken: a package that is used here has that name");
        Ok(())
    }

    /// The events that some function says, by name.
    pub(crate) fn events(&self) -> anyhow::Result<Vec<Event>> {
        let mut said = String::new();
        for domain in self.domains()? {
            for file in rust_files(&self.root.join("functions").join(domain).join("src"))? {
                said += &fs::read_to_string(file)?;
            }
        }
        let mut events = Vec::new();
        for file in rust_files(&self.root.join("functions/contracts/src"))? {
            let module = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            events.extend(events_of(&fs::read_to_string(file)?, &module));
        }
        events.retain(|event| is_said(&said, &event.message));
        events.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(events)
    }

    /// The golden sample of an event, as a path from the root.
    pub(crate) fn sample(&self, event: &str) -> Option<String> {
        let path = format!("nats/samples/{event}.json");
        self.root.join(&path).exists().then_some(path)
    }

    fn read(&self, path: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.root.join(path)).with_context(|| format!("read {path}"))
    }
}

fn events_of(text: &str, module: &str) -> Vec<Event> {
    let blocks = text.split("\nimpl Event for ").skip(1);
    let events = blocks.filter_map(|block| {
        let message = block.split(' ').next()?.to_owned();
        let name = block.split_once("const NAME: &'static str = \"")?.1.split('"').next()?.to_owned();
        Some(Event { name, message, module: module.to_owned() })
    });
    events.collect()
}

fn is_said(code: &str, message: &str) -> bool {
    let declared = code.split(".emits::<").skip(1).filter_map(|rest| rest.split('>').next());
    declared.filter_map(|path| path.rsplit("::").next()).any(|one| one == message)
}

fn folders(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files.sort();
    Ok(files)
}
