//! The data folder of a Postgres: made whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::Durability;
use crate::child::{Child, Farewell};
use crate::folder::{self, beside};
use crate::program;
use crate::user::Account;

const INITDB_FAREWELL: Farewell = &[(Signal::INT, std::time::Duration::from_secs(5))];

/// Inside the data folder, so that neither is ever there without the other.
const PASSWORD: &str = "outcry.password";

/// The suffix of the folder that a cluster is made in.
pub(crate) const UNFINISHED: &str = ".unfinished";

/// The major version that made `data`; nothing when it is still to be made.
pub(crate) fn made_by(data: &Path) -> Result<Option<u32>> {
    let version = match fs::read_to_string(data.join("PG_VERSION")) {
        Ok(version) => version,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let empty = fs::read_dir(data).map_or(true, |mut entries| entries.next().is_none());
            if empty {
                return Ok(None);
            }
            bail!(
                "{} holds something that is not a Postgres; set OUTCRY_DATA to another folder",
                data.display()
            );
        }
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "read {}: it belongs to another user; set OUTCRY_DATA to another folder",
                    data.display()
                )
            });
        }
    };
    let major = version.trim().parse().with_context(|| {
        format!(
            "{} was made by PostgreSQL {}; begin again with empty data: --fresh",
            data.display(),
            version.trim()
        )
    })?;
    Ok(Some(major))
}

/// The superuser's password, as it was when `data` was made.
pub(crate) fn password(data: &Path) -> Result<String> {
    let path = data.join(PASSWORD);
    fs::read_to_string(&path).with_context(|| {
        format!(
            "read {}; without it this data cannot be used: begin again with empty data: --fresh, or set OUTCRY_DATA to another folder",
            path.display()
        )
    })
}

/// Makes `data` with the `initdb` in `programs`, which writes to `log`, and a new password. A start that is killed meanwhile
/// leaves only an unfinished sibling, which the next one removes.
pub(crate) fn make(
    data: &Path,
    programs: &Path,
    account: Option<&Account>,
    durability: Durability,
    log: &Path,
) -> Result<()> {
    let unfinished = beside(data, UNFINISHED);
    folder::remove(&unfinished)?;
    DirBuilder::new()
        .mode(0o700)
        .create(&unfinished)
        .with_context(|| format!("make {}", unfinished.display()))?;
    let cluster = unfinished.join("cluster");
    let password = write_password(&unfinished)?;
    if let Some(account) = account {
        for path in [&unfinished, &password] {
            chown(path, Some(account.uid), Some(account.gid))?;
        }
    }

    let mut initdb = program::command(&programs.join("initdb"), account);
    initdb
        .arg("-D")
        .arg(&cluster)
        .arg("--pwfile")
        .arg(&password)
        .args(["-U", "postgres", "--encoding=UTF8", "--locale=C", "--no-instructions"])
        .args(["--auth-host=scram-sha-256", "--auth-local=scram-sha-256"]);
    if durability == Durability::Throwaway {
        initdb.arg("--no-sync");
    }
    let mut initdb = Child::spawn(initdb, log, INITDB_FAREWELL)?;
    let status = initdb.wait()?;
    if !status.success() {
        let tail = initdb.log().tail();
        let advice = if tail.contains("could not look up effective user ID") {
            "this user is not in /etc/passwd: run as one that is"
        } else {
            "set OUTCRY_DATA to a folder that Postgres can use"
        };
        bail!("initdb ended with {status}; {advice}; {tail}");
    }

    // After this the folder has its name only together with its password.
    fs::rename(&password, cluster.join(PASSWORD))?;
    fs::rename(&cluster, data).with_context(|| format!("move the new data to {}", data.display()))?;
    folder::remove(&unfinished)
}

fn write_password(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("password");
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&path)?
        .write_all(random_password()?.as_bytes())?;
    Ok(path)
}

/// 128 bits as hex: no character that a URL or a configuration file would change.
pub(crate) fn random_password() -> Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
