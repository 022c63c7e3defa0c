use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::find::{Found, Kept, Places, Program, Services, Source, Wanted, choose, newest_first, resolve};
use crate::pins::{self, Pin};
use crate::temp_dir;
use crate::version::Version;

/// A pin that no pip has.
const NOWHERE: Pin = Pin { package: "outcry-test-no-such-package", ..pins::POSTGRES };

fn wanted() -> Wanted<'static> {
    Wanted {
        name: "postgres",
        at_least: Version { major: 15, minor: 0 },
        only_major: None,
        beside: &["initdb"],
        account: None,
        pin: &NOWHERE,
        advice: "install PostgreSQL",
    }
}

/// A folder with a `postgres` that runs `script`, and perhaps an initdb.
fn installation(above: &Path, name: &str, script: &str, initdb: bool) -> PathBuf {
    let folder = above.join(name);
    fs::create_dir_all(&folder).unwrap();
    let postgres = folder.join("postgres");
    fs::write(&postgres, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&postgres, fs::Permissions::from_mode(0o755)).unwrap();
    if initdb {
        fs::write(folder.join("initdb"), "").unwrap();
    }
    folder
}

#[test]
fn the_first_good_one_wins_and_the_others_are_named() {
    let home = temp_dir().unwrap();
    let above = home.path();
    let say = |version: &str| format!("echo 'postgres (PostgreSQL) {version}'");
    let old = installation(above, "old", &say("13.9"), true);
    let alone = installation(above, "alone", &say("17.1"), false);
    let broken = installation(above, "broken", "exit 3", true);
    let good = installation(above, "good", &say("16.4"), true);
    let newer = installation(above, "newer", &say("18.1"), true);
    // A link into an installation, as Debian users make in /usr/local/bin.
    let links = above.join("links");
    fs::create_dir(&links).unwrap();
    std::os::unix::fs::symlink(good.join("postgres"), links.join("postgres")).unwrap();

    let said = RefCell::new(Vec::new());
    let report = |line: &str| said.borrow_mut().push(line.to_owned());
    let places = Places {
        path: vec![above.join("not there"), old, alone, broken, links.clone()],
        well_known: vec![newer.clone()],
    };
    let program = resolve(&wanted(), Services::Installed, &places, &report).unwrap();
    assert_eq!(program.found, Found::OnPath(links.join("postgres")));
    assert_eq!(program.path, good.canonicalize().unwrap().join("postgres"), "the link is followed");
    let said = said.into_inner();
    assert_eq!(said.len(), 3, "{said:#?}");
    for (line, reason) in said.iter().zip(["it is 13.9, 15.0 or newer", "no initdb", "exit status: 3"]) {
        assert!(line.contains("skipped") && line.contains(reason), "{line}");
    }

    let only_18 = Wanted { only_major: Some(18), ..wanted() };
    let program = resolve(&only_18, Services::Installed, &places, &|_| {}).unwrap();
    assert_eq!(program.found, Found::WellKnown(newer.join("postgres")));
    assert_eq!(program.found.to_string(), format!("installed: {}/postgres", newer.display()));
}

#[test]
fn what_cannot_be_found_says_what_to_do() {
    let nowhere = || Places { path: vec![], well_known: vec![] };
    let error = resolve(&wanted(), Services::Installed, &nowhere(), &|_| {}).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("forbids fetching") && text.contains("install PostgreSQL"), "{text}");

    let only_16 = Wanted { only_major: Some(16), ..wanted() };
    let error = resolve(&only_16, Services::Any, &nowhere(), &|_| {}).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("made by PostgreSQL 16") && text.contains("--fresh"), "{text}");
}

#[test]
fn the_environment_chooses_or_is_told_off() {
    let parse = |text: &str| Services::parse(Some(OsStr::new(text)));
    assert_eq!(Services::parse(None).unwrap(), Services::Any);
    assert_eq!(parse("").unwrap(), Services::Any);
    assert_eq!(parse("fetched").unwrap(), Services::Fetched);
    assert_eq!(parse("installed").unwrap(), Services::Installed);
    assert_eq!(parse("docker").unwrap(), Services::Docker);
    assert!(parse("podman").unwrap_err().to_string().contains("OUTCRY_SERVICES"));
}

#[test]
fn the_highest_version_comes_first_by_number() {
    let home = temp_dir().unwrap();
    for name in ["postgresql@9.6", "postgresql@16", "postgresql@17", "postgresql", "mysql@18"] {
        fs::create_dir(home.path().join(name)).unwrap();
    }
    let names: Vec<_> = newest_first(home.path(), "postgresql@")
        .iter()
        .map(|path| path.strip_prefix(home.path()).unwrap().to_owned())
        .collect();
    assert_eq!(names, ["postgresql@17/bin", "postgresql@16/bin", "postgresql@9.6/bin"].map(PathBuf::from));
}

/// What is chosen: `program`, `docker`, or the error.
fn chosen(services: Services, kept: Kept, is_found: bool, is_docker_there: bool) -> String {
    let program = || match is_found {
        true => Ok(Program {
            found: Found::OnPath("/bin/nats-server".into()),
            path: "/bin/nats-server".into(),
            version: Version { major: 2, minor: 15 },
        }),
        false => Err(anyhow::anyhow!("no program")),
    };
    let docker = || if is_docker_there { Ok(()) } else { Err(anyhow::anyhow!("no daemon")) };
    match choose(services, kept, program, &pins::NATS_IMAGE, docker) {
        Ok(Source::Program(_)) => "program".to_owned(),
        Ok(Source::Image(_)) => "docker".to_owned(),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn docker_is_the_last_resort_unless_it_is_asked_for() {
    assert_eq!(chosen(Services::Any, Kept::Nowhere, true, true), "program");
    assert_eq!(chosen(Services::Any, Kept::Nowhere, false, true), "docker");
    assert_eq!(chosen(Services::Any, Kept::Nowhere, false, false), "no daemon: no program");
    assert_eq!(chosen(Services::Docker, Kept::Nowhere, true, true), "docker");
    assert!(chosen(Services::Docker, Kept::Nowhere, true, false).contains("start Docker"));
    assert_eq!(chosen(Services::Installed, Kept::Nowhere, false, true), "no program");
}

#[test]
fn data_that_is_there_is_never_left_for_an_empty_place() {
    assert_eq!(chosen(Services::Any, Kept::InFolder, false, true), "no program");
    assert!(chosen(Services::Docker, Kept::InFolder, true, true).contains("made without Docker"));
    assert_eq!(chosen(Services::Any, Kept::InVolume, true, true), "docker");
    assert!(chosen(Services::Any, Kept::InVolume, true, false).contains("start Docker"));
    assert!(chosen(Services::Fetched, Kept::InVolume, true, true).contains("in a Docker volume"));
}

#[test]
fn containers_and_compose_have_the_same_images() {
    let compose = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docker-compose.yaml");
    let compose = fs::read_to_string(compose).unwrap();
    for (variable, image) in [("NATS_TAG", pins::NATS_IMAGE), ("POSTGRES_TAG", pins::POSTGRES_IMAGE)] {
        let line = format!("image: {}:${{{variable}:-{}}}\n", image.name, image.tag);
        assert!(compose.contains(&line), "docker-compose.yaml has no line `{}`", line.trim());
    }
}
