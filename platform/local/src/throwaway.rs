//! Folders for tests.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::user::Account;

/// Folders that belong to one server. A lock is held in each as long as it runs.
const OWNED: &str = "outcry-throwaway-";

/// Folders that belong to a test.
const FREE: &str = "outcry-temp-";

/// A new folder that is removed on drop. The user that Postgres runs as can get to what is in it, also when we are root.
pub fn temp_dir() -> Result<TempDir> {
    reachable_folder(FREE)
}

/// A new folder for one server. Also removes those of test processes that ended without a drop, because they were
/// interrupted or kept the server in a static.
pub(crate) fn home() -> Result<TempDir> {
    let home = reachable_folder(OWNED)?;
    if let Some(above) = home.path().parent() {
        sweep(above);
    }
    Ok(home)
}

/// Whether a data folder belongs to one server and goes with it.
pub(crate) fn is_owned(data: &Path) -> bool {
    data.parent().is_some_and(|home| has_prefix(home, OWNED))
}

/// Whether a data folder is in any of these folders.
pub(crate) fn is_in(data: &Path) -> bool {
    data.ancestors().any(|above| has_prefix(above, OWNED) || has_prefix(above, FREE))
}

fn has_prefix(folder: &Path, prefix: &str) -> bool {
    folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

fn reachable_folder(prefix: &str) -> Result<TempDir> {
    let mut tried = None;
    for above in [env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")] {
        match folder_in(&above, prefix) {
            Ok(Some(folder)) => return Ok(folder),
            Ok(None) => {}
            Err(error) => tried = Some(error.context(format!("make a folder in {}", above.display()))),
        }
    }
    Err(tried.unwrap_or_else(|| anyhow::anyhow!("Postgres' user can reach no temporary folder")))
        .context("set TMPDIR to a folder that every user may pass through")
}

fn folder_in(above: &Path, prefix: &str) -> Result<Option<TempDir>> {
    let above = above.canonicalize()?;
    if let Some(account) = Account::for_data(&above.join("x"))?
        && !account.reaches(&above.join("x"))
    {
        return Ok(None);
    }
    let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(above)?;
    // Passing through is enough: each data folder inside is closed to others.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    Ok(Some(folder))
}

/// Tidies; whatever cannot be looked at or removed belongs to somebody else and stays.
fn sweep(above: &Path) {
    for entry in fs::read_dir(above).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(OWNED) && is_abandoned(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(home: &Path) -> bool {
    // Between making the folder and taking the lock its owner looks just like a dead one.
    const GRACE: Duration = Duration::from_secs(60);
    let old = fs::symlink_metadata(home).is_ok_and(|found| {
        let age = found.modified().ok().and_then(|made| made.elapsed().ok());
        found.is_dir()
            && found.uid() == rustix::process::geteuid().as_raw()
            && age.is_some_and(|age| age > GRACE)
    });
    let free = |path: PathBuf| File::open(path).is_ok_and(|lock| lock.try_lock().is_ok());
    old && fs::read_dir(home)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "lock"))
        .all(free)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use super::{OWNED, sweep, temp_dir};

    #[test]
    fn only_old_folders_that_nobody_holds_are_swept() {
        let above = temp_dir().unwrap();
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let make = |name: &str, made: SystemTime| {
            let folder = above.path().join(name);
            fs::create_dir(&folder).unwrap();
            let lock = File::create(folder.join("postgres.lock")).unwrap();
            File::open(&folder).unwrap().set_modified(made).unwrap();
            (folder, lock)
        };
        let (held, lock) = make(&format!("{OWNED}held"), hour_ago);
        lock.lock().unwrap();
        let (new, _) = make(&format!("{OWNED}new"), SystemTime::now());
        let (foreign, _) = make("letters", hour_ago);
        let (dead, _) = make(&format!("{OWNED}dead"), hour_ago);

        sweep(above.path());
        assert!(held.exists() && new.exists() && foreign.exists());
        assert!(!dead.exists());
        drop(lock);
        sweep(above.path());
        assert!(!held.exists());
    }
}
