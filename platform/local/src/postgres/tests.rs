use std::cell::RefCell;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sqlx::{Connection, PgConnection};

use crate::port::{self, Attempt};
use crate::{Durability, Found, Postgres, Services, temp_dir};

fn quiet(_: &str) {}

/// Runs statements and gives the last one's text.
fn ask(url: &str, sql: &'static str) -> Result<String, sqlx::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await?;
        let answer = sqlx::query_scalar(sql).fetch_one(&mut connection).await;
        connection.close().await?;
        answer
    })
}

fn is_gone(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::test_kill_process(pid).is_err()
}

#[test]
fn it_answers_wants_its_password_and_ends_with_the_value() {
    let postgres = Postgres::throwaway(&quiet).unwrap();
    let url = postgres.url();
    assert_eq!(ask(&url, "select current_user::text").unwrap(), "postgres");

    let (before, after) = url.split_once('@').unwrap();
    let wrong = format!("{before}x@{after}");
    let error = ask(&wrong, "select ''").unwrap_err().to_string();
    assert!(error.contains("password authentication failed"), "{error}");
    let none = format!("postgres://postgres@{after}");
    assert!(ask(&none, "select ''").is_err());

    for (setting, value) in [
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("max_connections", "300"),
        ("fsync", "off"),
        ("server_encoding", "UTF8"),
        ("password_encryption", "scram-sha-256"),
    ] {
        let sql: &'static str = Box::leak(format!("select current_setting('{setting}')").into());
        assert_eq!(ask(&url, sql).unwrap(), value, "{setting}");
    }

    let (pid, data) = (postgres.pid().unwrap(), postgres.data().to_owned());
    drop(postgres);
    assert!(is_gone(pid));
    assert!(!data.parent().unwrap().exists(), "its folder is removed");
}

#[test]
fn a_restart_finds_data_and_password_and_nobody_else_gets_in() {
    let home = temp_dir().unwrap();
    let data = home.path().join("postgres");
    let postgres = Postgres::start(&data, Durability::Durable, &quiet).unwrap();
    let first = postgres.url();
    assert_eq!(ask(&first, "select current_setting('fsync')").unwrap(), "on");
    ask(&first, "with made as (select lo_from_bytea(4711, 'kept')) select 'ok'").unwrap();
    ask(&first, "select lo_from_bytea(4711, 'kept')::text").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("outcry.password")), 0o600);

    let error = Postgres::start(&data, Durability::Durable, &quiet).err().unwrap().to_string();
    assert!(error.contains("in use by another platform") && error.contains("OUTCRY_DATA"), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    assert!(Postgres::wipe(&data).is_err(), "nor is it wiped under a running server");

    postgres.stop().unwrap();
    let again = Postgres::start(&data, Durability::Durable, &quiet).unwrap();
    assert_eq!(password(&again.url()), password(&first));
    assert_eq!(ask(&again.url(), "select convert_from(lo_get(4711), 'UTF8')").unwrap(), "kept");
    drop(again);

    Postgres::wipe(&data).unwrap();
    assert!(!data.exists());
    Postgres::wipe(&data).unwrap();
}

fn password(url: &str) -> &str {
    url.split_once('@').unwrap().0
}

#[test]
fn it_comes_back_at_the_same_url_after_a_halt_and_after_a_crash() {
    let mut postgres = Postgres::throwaway(&quiet).unwrap();
    let url = postgres.url();
    postgres.halt().unwrap();
    assert!(ask(&url, "select ''").is_err());
    assert_eq!(postgres.pid(), None);
    postgres.resume(&quiet).unwrap();
    ask(&url, "select ''").unwrap();

    postgres.crash().unwrap();
    postgres.resume(&quiet).unwrap();
    ask(&url, "select ''").unwrap();

    // Somebody else kills it.
    let pid = rustix::process::Pid::from_raw(postgres.pid().unwrap().cast_signed()).unwrap();
    assert!(postgres.ended().unwrap().is_none());
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    while postgres.ended().unwrap().is_none() {
        std::thread::yield_now();
    }
    postgres.resume(&quiet).unwrap();
    ask(&url, "select ''").unwrap();
}

#[test]
fn data_of_another_version_is_not_touched() {
    let home = temp_dir().unwrap();
    let data = home.path().join("postgres");
    Postgres::start(&data, Durability::Throwaway, &quiet).unwrap().stop().unwrap();
    fs::write(data.join("PG_VERSION"), "14\n").unwrap();
    let error = Postgres::start(&data, Durability::Throwaway, &quiet).err().unwrap().to_string();
    assert!(error.contains("made by PostgreSQL 14") && error.contains("--fresh"), "{error}");
}

#[test]
fn a_folder_with_something_else_in_it_is_refused_and_an_unfinished_one_replaced() {
    let home = temp_dir().unwrap();
    let data = home.path().join("postgres");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("letter"), "dear reader").unwrap();
    let error = Postgres::start(&data, Durability::Throwaway, &quiet).err().unwrap().to_string();
    assert!(error.contains("not a Postgres"), "{error}");

    fs::remove_file(data.join("letter")).unwrap();
    let unfinished = home.path().join("postgres.unfinished");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("password"), "half").unwrap();
    let postgres = Postgres::start(&data, Durability::Throwaway, &quiet).unwrap();
    ask(&postgres.url(), "select ''").unwrap();
    assert!(!unfinished.exists());
}

#[test]
fn a_pid_file_that_names_a_stranger_does_not_keep_it_from_starting() {
    let home = temp_dir().unwrap();
    let data = home.path().join("postgres");
    let postgres = Postgres::start(&data, Durability::Throwaway, &quiet).unwrap();
    // Line 1 names us: alive, of the same user, and not a Postgres.
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let (pid, rest) = text.split_once('\n').unwrap();
    assert_eq!(pid, postgres.pid().unwrap().to_string());
    postgres.stop().unwrap();
    fs::write(data.join("postmaster.pid"), format!("{}\n{rest}", std::process::id())).unwrap();
    let postgres = Postgres::start(&data, Durability::Throwaway, &quiet).unwrap();
    ask(&postgres.url(), "select ''").unwrap();
}

#[test]
fn a_port_that_is_taken_meanwhile_is_swapped_for_another() {
    let postgres = Postgres::throwaway(&quiet).unwrap();
    let mut halted = postgres;
    halted.halt().unwrap();
    let thief = TcpListener::bind(("127.0.0.1", halted.port())).unwrap();
    let mut ports = [halted.port(), port::free().unwrap()].into_iter();
    let tried = RefCell::new(Vec::new());
    let server = port::on_a_free_port(
        || Ok(ports.next().unwrap()),
        |port| {
            tried.borrow_mut().push(port);
            halted.setup.launch(port, &quiet)
        },
    )
    .unwrap();
    assert_eq!(tried.borrow().len(), 2);
    drop(server);
    assert!(halted.resume(&quiet).unwrap_err().to_string().contains("was taken"));
    drop(thief);
    let all_taken = port::on_a_free_port(|| Ok(1), |_| Ok(Attempt::<()>::PortTaken));
    assert!(all_taken.is_err());
}

#[test]
fn a_server_that_cannot_start_shows_its_log() {
    let home = temp_dir().unwrap();
    let data = home.path().join("postgres");
    Postgres::start(&data, Durability::Throwaway, &quiet).unwrap().stop().unwrap();
    fs::write(data.join("postgresql.conf"), "no_such_setting = 1\n").unwrap();
    let error = Postgres::start(&data, Durability::Throwaway, &quiet).err().unwrap().to_string();
    assert!(error.contains("no_such_setting") && error.contains("postgres.log"), "{error}");
}

#[test]
fn the_fetched_one_works_too() {
    let home = temp_dir().unwrap();
    let data = home.path().join("postgres");
    let postgres = Postgres::start_from(Services::Fetched, &data, Durability::Throwaway, &quiet).unwrap();
    assert!(matches!(postgres.found(), Found::Fetched(_)), "{}", postgres.found());
    assert!(ask(&postgres.url(), "select version()").unwrap().starts_with("PostgreSQL 18.6"));
    drop(postgres);
    // What wrote the data is preferred over what would be found first.
    let postgres = Postgres::start(&data, Durability::Throwaway, &quiet).unwrap();
    assert!(postgres.version().starts_with("18."));
}

#[test]
fn as_root_data_behind_a_closed_door_goes_elsewhere() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = temp_dir().unwrap();
    let closed = home.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let data = closed.join("postgres");
    let said = RefCell::new(Vec::new());
    let report = |line: &str| said.borrow_mut().push(line.to_owned());
    let postgres = Postgres::start(&data, Durability::Throwaway, &report).unwrap();
    assert!(postgres.data().starts_with("/var/tmp"), "{}", postgres.data().display());
    assert!(said.borrow().iter().any(|line| line.contains("cannot get to")), "{said:?}");
    ask(&postgres.url(), "select ''").unwrap();
    let real = postgres.data().to_owned();
    postgres.stop().unwrap();
    let again = Postgres::start(&data, Durability::Throwaway, &quiet).unwrap();
    assert_eq!(again.data(), real, "and is found there again");
    drop(again);
    Postgres::wipe(&data).unwrap();
    assert!(!real.exists());
    fs::remove_dir_all(real.parent().unwrap()).unwrap();
}
