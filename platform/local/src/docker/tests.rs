//! On a real daemon, so they are ignored where there may be none: `cargo test -p local -- --ignored`.

use std::time::Instant;

use sqlx::{Connection, PgConnection};
use testcontainers::bollard::models::ContainerSummary;

use super::*;
use crate::{Durability, Nats, Postgres, Services, temp_dir};

fn quiet(_: &str) {}

/// The containers of a data folder.
fn of(data: &Path) -> Vec<ContainerSummary> {
    let lock = format!("{LOCK}={}", beside(&folder::settle(data).unwrap(), ".lock").display());
    let wanted = HashMap::from([("label".to_owned(), vec![lock])]);
    let every = ListContainersOptionsBuilder::new().all(true).filters(&wanted).build();
    ask(async |docker| docker.list_containers(Some(every)).await).unwrap()
}

fn has_volume(name: &str) -> bool {
    ask(async |docker| docker.inspect_volume(name).await).is_ok()
}

#[tokio::test]
#[ignore = "needs a Docker daemon"]
async fn a_postgres_keeps_its_data_in_a_volume_that_goes_with_a_wipe() {
    let home = temp_dir().unwrap();
    let data = home.path().join("postgres");
    // From the middle of asynchronous work, as tests do it.
    let start = || Postgres::start_from(Services::Docker, &data, Durability::Durable, &quiet);
    let mut postgres = start().unwrap();
    assert_eq!(postgres.found().to_string(), "with Docker: postgres:17-alpine");
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    sqlx::query("create table lamp (name text)").execute(&mut connection).await.unwrap();
    drop(connection);

    let found = of(&data);
    let ports = found[0].ports.as_ref().unwrap();
    assert!(!ports.is_empty());
    assert!(ports.iter().all(|port| port.ip.as_deref() == Some("127.0.0.1")), "open to others: {ports:?}");

    let url = postgres.url();
    postgres.crash().unwrap();
    assert_eq!(of(&data).len(), 0);
    postgres.resume(&quiet).unwrap();
    assert_eq!(postgres.url(), url);
    PgConnection::connect(&url).await.unwrap();
    drop(postgres);
    assert_eq!(of(&data).len(), 0, "the container is gone");

    let postgres = start().unwrap();
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    sqlx::query("select name from lamp").fetch_all(&mut connection).await.unwrap();
    drop(postgres);
    let error = Postgres::start_from(Services::Installed, &data, Durability::Durable, &quiet).err().unwrap();
    assert!(error.to_string().contains("in a Docker volume"), "{error:#}");

    let volume = Volume::of(&data).unwrap().unwrap().name.clone();
    Postgres::wipe(&data).unwrap();
    assert!(!has_volume(&volume) && !beside(&data, NOTE).exists());
}

#[test]
#[ignore = "needs a Docker daemon"]
fn a_nats_server_answers_and_says_how_it_ended() {
    let home = temp_dir().unwrap();
    let (config, data) = (home.path().join("server.conf"), home.path().join("nats"));
    fs::write(&config, "jetstream: enabled\n").unwrap();
    let mut nats = Nats::start_from(Services::Docker, &config, &data, &quiet).unwrap();

    assert!(crate::wire::nats_greets(nats.port()).unwrap());
    assert_eq!((nats.ended().unwrap(), nats.pid()), (None, None));
    ask(async |docker| {
        let id = docker.list_containers(None).await?.into_iter().find_map(|one| {
            let lock = one.labels?.remove(LOCK)?;
            (Path::new(&lock) == beside(&folder::settle(&data).ok()?, ".lock")).then_some(one.id?)
        });
        docker.kill_container(&id.unwrap_or_default(), None::<KillContainerOptions>).await
    })
    .unwrap();
    while nats.ended().unwrap().is_none() {
        thread::sleep(LOOK);
    }
    nats.resume(&quiet).unwrap();
    assert!(crate::wire::nats_greets(nats.port()).unwrap());
    nats.stop().unwrap();
    // Docker passes the output on a moment after it was written.
    let log = beside(&data, ".log");
    let waited = Instant::now();
    while !fs::read_to_string(&log).unwrap().contains("Server is ready") {
        assert!(waited.elapsed() < Duration::from_secs(5), "the log does not say that it was ready");
        thread::sleep(LOOK);
    }
    Nats::wipe(&data).unwrap();
}

#[test]
#[ignore = "needs a Docker daemon"]
fn what_a_killed_process_left_is_removed_by_the_next_one() {
    let (home, next_home) = (crate::throwaway::home().unwrap(), crate::throwaway::home().unwrap());
    let (killed, next) = (home.path().join("nats"), next_home.path().join("nats"));
    let held = crate::folder::Hold::take(&killed).unwrap();
    let volume = Volume::make(&killed, String::new()).unwrap();
    let left = volume.name.clone();
    let container = Container::start(
        Request {
            image: &crate::pins::NATS_IMAGE,
            volume: (&volume, "/data"),
            ports: &[],
            command: Vec::new(),
            environment: &[],
            file: None,
            log: &beside(&killed, ".log"),
        },
        &quiet,
    );
    // As a process that is killed does it.
    std::mem::forget((container.unwrap(), volume));

    let _next_held = crate::folder::Hold::take(&next).unwrap();
    let own = Volume::make(&next, String::new()).unwrap();
    assert_eq!(of(&killed).len(), 1, "somebody holds the lock: it is in use");

    drop(held);
    own.sweep().unwrap();
    assert_eq!(of(&killed).len(), 0);
    assert!(has_volume(&left), "its owner may come back");

    drop(home);
    own.sweep().unwrap();
    assert!(!has_volume(&left), "the folder is gone");
    let name = own.name.clone();
    drop(own);
    assert!(!has_volume(&name), "the volume of a server for one test goes with the value");
}
