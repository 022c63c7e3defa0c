//! Data folders: where one really goes, what lies beside it, and who may use it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::Report;
use crate::user::Account;

/// `a/b` and `.log` make `a/b.log`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    name.into()
}

/// The full path of a data folder, with the folder above it made.
pub(crate) fn settle(wanted: &Path) -> Result<PathBuf> {
    let wanted = std::path::absolute(wanted)?;
    let (Some(above), Some(name)) = (wanted.parent(), wanted.file_name()) else {
        bail!("{} cannot be a data folder; set OUTCRY_DATA to another", wanted.display());
    };
    fs::create_dir_all(above)
        .and_then(|()| above.canonicalize())
        .map(|above| above.join(name))
        // The same folder by another name must meet the same lock.
        .map(|path| path.canonicalize().unwrap_or(path))
        .with_context(|| {
            format!("make the folder {}; set OUTCRY_DATA to one you may write to", above.display())
        })
}

/// `wanted` if `account` can get there, else a folder in `/var/tmp` that belongs to `wanted` alone.
pub(crate) fn reachable(wanted: PathBuf, account: Option<&Account>, report: Report) -> Result<PathBuf> {
    let Some(account) = account else {
        return Ok(wanted);
    };
    if account.reaches(&wanted) {
        return Ok(wanted);
    }
    let data = stand_in(&wanted);
    if let Some(above) = data.parent() {
        make_own(above)?;
    }
    report(&format!(
        "postgres: user {} cannot get to {}, the data goes to {}",
        account.name,
        wanted.display(),
        data.display()
    ));
    Ok(data)
}

fn stand_in(wanted: &Path) -> PathBuf {
    let digest = Sha256::digest(wanted.as_os_str().as_encoded_bytes());
    let short: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let above = Path::new("/var/tmp").join(format!("outcry-{short}"));
    above.join(wanted.file_name().unwrap_or_default())
}

/// Makes a folder that everybody may pass through and only we may write to. Others can write to the folders above, so one
/// that is there already must be ours.
pub(crate) fn make_own(path: &Path) -> Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above).with_context(|| format!("make {}", above.display()))?;
    }
    if let Err(error) = DirBuilder::new().mode(0o755).create(path)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error).with_context(|| format!("make {}", path.display()));
    }
    let found = fs::symlink_metadata(path)?;
    ensure!(
        found.is_dir() && found.uid() == rustix::process::geteuid().as_raw(),
        "{} belongs to somebody else; remove it or move it away",
        path.display()
    );
    // Again, because the umask may have taken bits away.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Held by the one process that uses a data folder; the lock lies beside it, `<data>.lock`.
pub struct Hold {
    _lock: File,
}

impl Hold {
    /// Takes `data`, or says who has it.
    pub fn take(data: &Path) -> Result<Hold> {
        // A process that has just been killed gives its lock back a moment later.
        const PATIENCE: Duration = Duration::from_secs(1);
        let path = beside(data, ".lock");
        let mut lock =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).with_context(
                || format!("open {}; set OUTCRY_DATA to a folder you may write to", path.display()),
            )?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => bail!(
                    "{} is in use by another platform{}; stop that one, or set OUTCRY_DATA to another folder",
                    data.display(),
                    holder(&path)
                ),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("lock {}", path.display()));
                }
            }
        }
        // Only for the message above.
        lock.set_len(0)?;
        writeln!(lock, "{}", std::process::id())?;
        Ok(Hold { _lock: lock })
    }
}

fn holder(lock: &Path) -> String {
    match fs::read_to_string(lock) {
        Ok(pid) if !pid.trim().is_empty() => format!(" (process {})", pid.trim()),
        _ => String::new(),
    }
}

/// Removes a data folder and what lies beside it; one that is not there is fine.
pub(crate) fn wipe(data: &Path, suffixes: &[&str]) -> Result<()> {
    remove(data)?;
    for suffix in suffixes {
        remove(&beside(data, suffix))?;
    }
    Ok(())
}

/// Removes a file or a folder; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Where a folder stands for `account` after [`settle`] and [`reachable`], without making anything.
pub(crate) fn stand_in_if_made(wanted: &Path) -> Option<PathBuf> {
    let stand_in = stand_in(wanted);
    stand_in.exists().then_some(stand_in)
}
