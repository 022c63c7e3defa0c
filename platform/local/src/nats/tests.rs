use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use crate::port::Attempt;
use crate::{Found, Nats, Services, temp_dir};

fn quiet(_: &str) {}

fn config(folder: &Path) -> PathBuf {
    let path = folder.join("server.conf");
    fs::write(&path, "port: 4222\njetstream: enabled\n").unwrap();
    path
}

/// One request and its answer, in NATS' own words.
fn request(nats: &Nats, subject: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", nats.port())).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    write!(
        stream,
        "CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\nPUB {subject} answer {}\r\n{body}\r\n",
        body.len()
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines();
    while !lines.next().unwrap().unwrap().starts_with("MSG answer") {}
    lines.next().unwrap().unwrap()
}

#[test]
fn it_keeps_its_store_over_a_restart_and_ends_with_the_value() {
    let home = temp_dir().unwrap();
    let config = config(home.path());
    let data = home.path().join("nats");
    let nats = Nats::start(&config, &data, &quiet).unwrap();
    assert_ne!(nats.port(), 4222, "the file's port is overruled");
    let made = request(
        &nats,
        "$JS.API.STREAM.CREATE.BIDS",
        r#"{"name":"BIDS","subjects":["bids"],"storage":"file"}"#,
    );
    assert!(made.contains("\"did_create\":true"), "{made}");
    let stored = request(&nats, "bids", "one");
    assert!(stored.contains("\"seq\":1"), "{stored}");

    let error = Nats::start(&config, &data, &quiet).err().unwrap().to_string();
    assert!(error.contains("in use by another platform"), "{error}");

    let pid = nats.pid().unwrap();
    drop(nats);
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    assert!(rustix::process::test_kill_process(pid).is_err());

    let nats = Nats::start(&config, &data, &quiet).unwrap();
    let info = request(&nats, "$JS.API.STREAM.INFO.BIDS", "");
    assert!(info.contains("\"messages\":1"), "{info}");
    nats.stop().unwrap();
    Nats::wipe(&data).unwrap();
    assert!(!data.exists());
}

#[test]
fn it_comes_back_at_the_same_url_after_a_halt_and_after_a_crash() {
    let home = temp_dir().unwrap();
    let mut nats = Nats::throwaway(&config(home.path()), &quiet).unwrap();
    let url = nats.url();
    nats.halt().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", nats.port())).is_err());
    nats.resume(&quiet).unwrap();
    nats.crash().unwrap();
    nats.resume(&quiet).unwrap();
    assert_eq!(nats.url(), url);
    assert!(request(&nats, "$JS.API.INFO", "").contains("\"streams\":0"));
    let data = nats.data().to_owned();
    drop(nats);
    assert!(!data.parent().unwrap().exists(), "its folder is removed");
}

#[test]
fn monitoring_answers_on_its_own_port() {
    let home = temp_dir().unwrap();
    let nats = Nats::throwaway(&config(home.path()), &quiet).unwrap();
    let address = nats.monitoring_url().strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    let first = BufReader::new(stream).lines().next().unwrap().unwrap();
    assert!(first.contains("200"), "{first}");
}

#[test]
fn a_port_that_is_taken_is_noticed() {
    let home = temp_dir().unwrap();
    let mut nats = Nats::throwaway(&config(home.path()), &quiet).unwrap();
    nats.halt().unwrap();
    for port in [nats.port, nats.monitoring_port] {
        let thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let attempt = nats.setup.launch((nats.port, nats.monitoring_port), &quiet).unwrap();
        assert!(matches!(attempt, Attempt::PortTaken));
        drop(thief);
    }
    nats.resume(&quiet).unwrap();
}

#[test]
fn a_bad_configuration_shows_what_the_server_says() {
    let home = temp_dir().unwrap();
    let config = home.path().join("server.conf");
    fs::write(&config, "no_such_setting: 1\n").unwrap();
    let error = Nats::throwaway(&config, &quiet).err().unwrap().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}

#[test]
fn the_fetched_one_works_too() {
    let home = temp_dir().unwrap();
    let nats =
        Nats::start_from(Services::Fetched, &config(home.path()), &home.path().join("nats"), &quiet).unwrap();
    assert!(matches!(nats.found(), Found::Fetched(_)));
}
