//! What happens to servers when their parent ends without a word. The parent here is this test binary, run again.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::folder::beside;
use crate::orphan::Watch;
use crate::{Durability, Nats, Postgres, temp_dir};

const HELPER: &str = "orphan::tests::helper_that_holds_servers_until_it_is_killed";
const FOLDER: &str = "OUTCRY_TEST_ORPHAN_FOLDER";

fn quiet(_: &str) {}

fn start(folder: &Path) -> (Postgres, Nats) {
    let config = folder.join("server.conf");
    fs::write(&config, "jetstream: enabled\n").unwrap();
    let postgres = Postgres::start(&folder.join("postgres"), Durability::Throwaway, &quiet).unwrap();
    let nats = Nats::start(&config, &folder.join("nats"), &quiet).unwrap();
    (postgres, nats)
}

/// Not a test by itself: does nothing unless the one below runs it.
#[test]
fn helper_that_holds_servers_until_it_is_killed() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    // The thread that asks for the servers ends long before they should.
    let servers = thread::spawn(move || start(Path::new(&folder))).join().unwrap();
    thread::sleep(Duration::from_millis(300));
    let (postgres, nats) = &servers;
    let line = format!(
        "HELD {} {} {} {}\n",
        postgres.pid().unwrap(),
        postgres.port(),
        nats.pid().unwrap(),
        nats.port()
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn servers_end_with_a_parent_that_is_killed() {
    let home = temp_dir().unwrap();
    let mut parent = Command::new(env::current_exe().unwrap())
        .args([HELPER, "--exact", "--nocapture"])
        .env(FOLDER, home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(parent.stderr.take().unwrap()).lines();
    let held = loop {
        let line = stderr.next().expect("the helper ended").unwrap();
        if let Some((_, held)) = line.split_once("HELD ") {
            break held.to_owned();
        }
    };
    let numbers: Vec<i32> = held.split(' ').map(|word| word.parse().unwrap()).collect();
    let [postgres, postgres_port, nats, nats_port] = numbers[..] else {
        panic!("{held}");
    };
    let connects = |port: i32| TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).is_ok();
    assert!(is_alive(postgres) && is_alive(nats));
    assert!(connects(postgres_port) && connects(nats_port));

    parent.kill().unwrap(); // SIGKILL
    parent.wait().unwrap();
    let killed = Instant::now();
    while is_alive(postgres) || is_alive(nats) {
        assert!(killed.elapsed() < Duration::from_secs(10), "a server outlived its parent");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(!connects(postgres_port) && !connects(nats_port));

    // Nothing is in the way of the next start.
    drop(start(home.path()));
}

/// Whether it runs; a zombie that nobody has collected does not.
fn is_alive(pid: i32) -> bool {
    if cfg!(target_os = "linux") {
        return fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty());
    }
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

#[test]
fn a_server_left_over_data_that_nobody_holds_is_ended_first() {
    let home = temp_dir().unwrap();
    let (postgres, nats) = start(home.path());
    let (old_postgres, old_nats) = (postgres.pid().unwrap(), nats.pid().unwrap());
    // A parent without the kernel's help: it gives up its locks and its servers stay.
    let postgres_pid = fs::read_to_string(home.path().join("postgres/postmaster.pid")).unwrap();
    assert!(postgres_pid.starts_with(&old_postgres.to_string()));
    let nats_pid = fs::read_to_string(beside(&home.path().join("nats"), ".pid")).unwrap();
    assert_eq!(nats_pid.trim(), old_nats.to_string());
    let (postgres, nats) = (postgres.abandon(), nats.abandon());

    let said = std::cell::RefCell::new(Vec::new());
    let report = |line: &str| said.borrow_mut().push(line.to_owned());
    let new = Postgres::start(&home.path().join("postgres"), Durability::Throwaway, &report).unwrap();
    assert_ne!(new.pid().unwrap(), old_postgres);
    let config = home.path().join("server.conf");
    let new = Nats::start(&config, &home.path().join("nats"), &report).unwrap();
    assert_ne!(new.pid().unwrap(), old_nats);
    let said = said.into_inner();
    assert_eq!(said.iter().filter(|line| line.contains("left from an earlier run")).count(), 2, "{said:?}");
    for mut server in [postgres, nats] {
        assert!(server.ended().unwrap().is_some());
    }
}

#[test]
fn the_watch_interrupts_its_process_when_the_pipe_ends_and_not_before() {
    // Says itself what an interrupt does: whoever runs this in the background of a shell makes `sleep` ignore it.
    let sleep = || {
        let program = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print(flush=True); time.sleep(60)";
        let mut child = Command::new("python3").args(["-c", program]).stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        child
    };

    let mut child = sleep();
    drop(Watch::over(child.id()).unwrap());
    thread::sleep(Duration::from_millis(100));
    assert!(child.try_wait().unwrap().is_none(), "a watch that is dropped does nothing");
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();

    let mut child = sleep();
    let mut watch = Watch::over(child.id()).unwrap();
    drop(watch.0.stdin.take());
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::INT.as_raw()));
}
