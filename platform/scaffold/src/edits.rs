//! Changes of several files that happen together or not at all.
//!
//! Everything is worked out in memory first. Nothing is written while something may still be refused, and what was
//! written is undone when a later file cannot be.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};

/// What will be in the files below a root.
pub(crate) struct Edits {
    root: PathBuf,
    files: BTreeMap<String, File>,
}

struct File {
    /// `None`: there is none yet.
    before: Option<String>,
    after: String,
}

/// What happened to a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) path: String,
    pub(crate) is_new: bool,
}

impl Edits {
    pub(crate) fn below(root: &Path) -> Self {
        Self { root: root.to_owned(), files: BTreeMap::new() }
    }

    /// A file as it will be.
    pub(crate) fn read(&self, path: &str) -> anyhow::Result<String> {
        match self.files.get(path) {
            Some(file) => Ok(file.after.clone()),
            None => fs::read_to_string(self.root.join(path)).with_context(|| format!("read {path}")),
        }
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.files.contains_key(path) || self.root.join(path).exists()
    }

    /// A file that is not there yet.
    pub(crate) fn create(&mut self, path: &str, text: String) -> anyhow::Result<()> {
        ensure!(!self.exists(path), "{path} is there already");
        self.files.insert(path.to_owned(), File { before: None, after: text });
        Ok(())
    }

    /// A file that is there, with something changed about its text.
    pub(crate) fn change(
        &mut self,
        path: &str,
        change: impl FnOnce(&str) -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        let now = self.read(path)?;
        let after = change(&now).with_context(|| format!("cannot change {path}"))?;
        match self.files.get_mut(path) {
            Some(file) => file.after = after,
            None if after == now => {}
            None => {
                self.files.insert(path.to_owned(), File { before: Some(now), after });
            }
        }
        Ok(())
    }

    /// Formats the Rust code as `cargo fmt` would, imports and modules in order.
    pub(crate) fn format(&mut self) -> anyhow::Result<()> {
        for (path, file) in self.files.iter_mut().filter(|(path, _)| path.ends_with(".rs")) {
            file.after = formatted(&self.root, &file.after).with_context(|| format!("format {path}"))?;
        }
        Ok(())
    }

    /// Writes all files, or none.
    pub(crate) fn write(self) -> anyhow::Result<Vec<Written>> {
        let mut made = Vec::new();
        let mut begun: Vec<(&str, &File)> = Vec::new();
        for (path, file) in &self.files {
            begun.push((path, file));
            let written = self.write_one(path, file, &mut made);
            if let Err(error) = written {
                let left = self.undo(&begun, &made);
                if left.is_empty() {
                    return Err(error.context("nothing is changed"));
                }
                return Err(error.context(format!("these could not be put back: {}", left.join(", "))));
            }
        }
        let written = |(path, file): (String, File)| Written { path, is_new: file.before.is_none() };
        Ok(self.files.into_iter().map(written).collect())
    }

    fn write_one(&self, path: &str, file: &File, made: &mut Vec<PathBuf>) -> anyhow::Result<()> {
        let target = self.root.join(path);
        let missing: Vec<&Path> = target.ancestors().skip(1).take_while(|folder| !folder.exists()).collect();
        for folder in missing.into_iter().rev() {
            fs::create_dir(folder).with_context(|| format!("make {}", folder.display()))?;
            made.push(folder.to_owned());
        }
        fs::write(&target, &file.after).with_context(|| format!("write {path}"))
    }

    /// Puts everything back; returns what could not be.
    fn undo(&self, begun: &[(&str, &File)], made: &[PathBuf]) -> Vec<String> {
        let mut left = Vec::new();
        for (path, file) in begun {
            let target = self.root.join(path);
            let undone = match &file.before {
                Some(before) if fs::read_to_string(&target).is_ok_and(|now| now == *before) => Ok(()),
                Some(before) => fs::write(&target, before),
                None if target.exists() => fs::remove_file(&target),
                None => Ok(()),
            };
            if undone.is_err() {
                left.push((*path).to_owned());
            }
        }
        for folder in made.iter().rev() {
            if fs::remove_dir(folder).is_err() {
                left.push(folder.display().to_string());
            }
        }
        left
    }
}

fn formatted(root: &Path, text: &str) -> anyhow::Result<String> {
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("rustfmt is not there: `rustup component add rustfmt`")?;
    let Some(mut input) = rustfmt.stdin.take() else { bail!("rustfmt takes no input") };
    // It reads everything before it writes anything, so neither side waits for the other.
    input.write_all(text.as_bytes())?;
    drop(input);
    let done = rustfmt.wait_with_output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(String::from_utf8(done.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("menu"), "soup\n").unwrap();
        folder
    }

    #[test]
    fn all_files_are_written_together() {
        let folder = folder();
        let mut edits = Edits::below(folder.path());
        edits.create("kitchen/cook", "yes\n".into()).unwrap();
        edits.change("menu", |menu| Ok(format!("{menu}bread\n"))).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("menu")).unwrap(), "soup\n", "not yet");

        let written = edits.write().unwrap();

        let told: Vec<_> = written.iter().map(|file| (&*file.path, file.is_new)).collect();
        assert_eq!(told, [("kitchen/cook", true), ("menu", false)]);
        assert_eq!(fs::read_to_string(folder.path().join("menu")).unwrap(), "soup\nbread\n");
        assert_eq!(fs::read_to_string(folder.path().join("kitchen/cook")).unwrap(), "yes\n");
    }

    #[test]
    fn a_file_that_cannot_be_written_undoes_the_others() {
        let folder = folder();
        let mut edits = Edits::below(folder.path());
        edits.create("kitchen/cook", "yes\n".into()).unwrap();
        edits.change("menu", |menu| Ok(format!("{menu}bread\n"))).unwrap();
        edits.create("table/cloth", "white\n".into()).unwrap();
        // A file where a folder is needed.
        fs::write(folder.path().join("table"), "").unwrap();

        let refused = edits.write().unwrap_err();

        assert!(format!("{refused:#}").starts_with("nothing is changed: "), "{refused:#}");
        assert_eq!(fs::read_to_string(folder.path().join("menu")).unwrap(), "soup\n");
        assert!(!folder.path().join("kitchen").exists());
        assert_eq!(fs::read_to_string(folder.path().join("table")).unwrap(), "");
    }

    #[test]
    fn a_file_that_is_there_is_not_made_again() {
        let folder = folder();
        let mut edits = Edits::below(folder.path());

        let refused = edits.create("menu", String::new()).unwrap_err();

        assert_eq!(refused.to_string(), "menu is there already");
    }

    #[test]
    fn code_that_does_not_parse_is_refused_before_anything_is_written() {
        let folder = folder();
        let mut edits = Edits::below(folder.path());
        edits.create("broken.rs", "fn broken( {".into()).unwrap();

        assert!(edits.format().is_err());
        assert!(!folder.path().join("broken.rs").exists());
    }
}
