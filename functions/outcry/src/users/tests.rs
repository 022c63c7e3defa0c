//! Comes to a real nats-server as every user, tries what it must not do, and what it needs.
//!
//! In NATS' own words: the server says which line it refuses, before it answers the PING behind it.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use platform::{
    Spec, Wakes,
    permissions::{ALL_IN_ONE, OPERATOR, password_of},
    wire,
};

use super::*;

const SECRET: &str = "of this test";

fn nats_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nats")
}

#[test]
fn the_checked_in_users_are_those_that_the_functions_declare() {
    let found = std::fs::read_to_string(nats_folder().join("accounts.conf")).unwrap();

    assert!(found == accounts().unwrap(), "nats/accounts.conf is out of date: `just accounts` writes it");
}

/// A nats-server with the files as they are checked in, and a file of passwords beside them.
fn server() -> (local::Nats, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for file in ["server.conf", "settings.conf", "accounts.conf"] {
        std::fs::copy(nats_folder().join(file), folder.path().join(file)).unwrap();
    }
    let passwords = permissions::passwords(&users().unwrap(), SECRET);
    std::fs::write(folder.path().join("passwords.conf"), passwords).unwrap();
    (local::Nats::throwaway(&folder.path().join("server.conf"), &|_| {}).unwrap(), folder)
}

/// A connection that says what the server refuses.
struct Client {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Client {
    /// What the server answers to a login; an error is its own words.
    fn login(nats: &local::Nats, login: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", nats.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut client = Self { lines: BufReader::new(stream.try_clone().unwrap()), stream };
        let refused = client.refused(&format!("CONNECT {{\"verbose\":false{login}}}\r\n"));
        if refused.is_empty() { Ok(client) } else { Err(refused.concat()) }
    }

    fn of(nats: &local::Nats, user: &str) -> Self {
        let password = password_of(user, SECRET);
        Self::login(nats, &format!(r#","user":"{user}","pass":"{password}""#)).unwrap()
    }

    /// Says something, and returns what the server complains about.
    fn refused(&mut self, said: &str) -> Vec<String> {
        write!(self.stream, "{said}PING\r\n").unwrap();
        let mut refused = Vec::new();
        for line in self.lines.by_ref().lines() {
            let Ok(line) = line else { break };
            if line == "PONG" {
                return refused;
            }
            refused.extend(line.strip_prefix("-ERR ").map(str::to_owned));
        }
        refused.push("the connection ended".into());
        refused
    }

    fn may_say(&mut self, subject: &str) -> bool {
        let refused = self.refused(&format!("PUB {subject} 0\r\n\r\n"));
        is_allowed(&refused, "Permissions Violation for Publish to ", subject)
    }

    /// A queue group may follow the subject.
    fn may_hear(&mut self, subject: &str) -> bool {
        let refused = self.refused(&format!("SUB {subject} 1\r\nUNSUB 1\r\n"));
        is_allowed(&refused, "Permissions Violation for Subscription to ", subject)
    }
}

/// Refused for the reason that is expected, or not at all.
fn is_allowed(refused: &[String], reason: &str, subject: &str) -> bool {
    let subject = subject.split(' ').next().unwrap();
    assert!(
        refused.iter().all(|why| why.contains(reason) && why.contains(&format!("\"{subject}\""))),
        "{subject}: {refused:?}"
    );
    refused.is_empty()
}

#[test]
fn nobody_comes_in_without_a_password() {
    let (nats, _folder) = server();
    let wrong = password_of("edge", SECRET);

    Client::of(&nats, "place-bid");
    for login in [String::new(), format!(r#","user":"place-bid","pass":"{wrong}""#)] {
        let refused = Client::login(&nats, &login).err().unwrap();
        assert!(refused.contains("Authorization Violation"), "{refused}");
    }
}

/// Everything that could be said, by what it is for: each line with those who may say it.
fn sayings(specs: &[&Spec]) -> Vec<(String, Vec<String>)> {
    let one = |name: &str| vec![name.to_owned()];
    let mut said = Vec::new();
    for spec in specs {
        let (domain, name) = (spec.domain, spec.name);
        if let Some((stream, subjects)) = spec.consumer() {
            said.push((format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"), one(name)));
            said.push((format!("$JS.ACK.{stream}.{name}.1.1.1.1.0"), one(name)));
            said.push((format!("$JS.API.CONSUMER.CREATE.{stream}.{name}"), one("maintain")));
            said.push((format!("$JS.API.CONSUMER.DELETE.{stream}.{name}"), Vec::new()));
            said.push((format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{name}"), Vec::new()));
            if matches!(spec.wakes, Wakes::Command { .. }) {
                said.push((subjects.concat().replace('*', "x"), one("edge")));
                said.push((format!("reply.{name}.x.1"), one(name)));
            }
            let letters = stream != wire::CREDENTIALS;
            said.push((format!("dlq.{name}"), if letters { one(name) } else { Vec::new() }));
            for verb in ["redrive", "replay", &format!("svc.{domain}")] {
                said.push((format!("{verb}.{name}"), Vec::new()));
            }
        }
        for event in &spec.emits {
            said.push((format!("events.{event}.x"), one(&format!("{domain}-relay"))));
            said.push((format!("live.{event}.x"), Vec::new()));
        }
        said.push((format!("changed.{domain}.x"), Vec::new()));
        if let Some(rebuild) = &spec.rebuild {
            let reader = format!("CONSUMER.CREATE.EVENTS.rebuild-{name}");
            said.push((format!("$JS.API.{reader}"), one(name)));
            for snapshot in &rebuild.snapshots {
                let snapshot = format!("qry.{}.{}", snapshot.authority, snapshot.query);
                said.push((snapshot, vec![name.to_owned(), "edge".to_owned()]));
            }
        }
        said.push((format!("_INBOX.{name}.x"), Vec::new()));
    }
    let all_but = |excepted: fn(&Spec) -> bool| {
        let names = specs.iter().filter(|spec| !excepted(spec)).map(|spec| spec.name.to_owned());
        names.collect::<Vec<_>>()
    };
    let relays = || crate::launch::relayed().into_iter().map(|domain| format!("{domain}-relay"));
    for stream in ["COMMANDS", "CREDENTIALS", "EVENTS", "DEAD_LETTERS"] {
        for verb in ["DELETE", "PURGE", "UPDATE", "SNAPSHOT"] {
            said.push((format!("$JS.API.STREAM.{verb}.{stream}"), Vec::new()));
        }
        said.push((format!("$JS.API.DIRECT.GET.{stream}"), Vec::new()));
        said.push((format!("$JS.API.CONSUMER.CREATE.{stream}"), Vec::new()));
        said.push((format!("$JS.API.CONSUMER.CREATE.{stream}.spy"), Vec::new()));
        said.push((format!("$JS.API.STREAM.CREATE.{stream}"), one("maintain")));
        let readers = match stream {
            "COMMANDS" => all_but(|spec| {
                !["close-auction", "close-item"].contains(&spec.name) && !spec.name.ends_with("-outcome")
            }),
            "EVENTS" => relays().collect(),
            "DEAD_LETTERS" => all_but(|spec| {
                matches!(spec.wakes, Wakes::Query | Wakes::Due(_) | Wakes::Command { secret: true })
            }),
            _ => Vec::new(),
        };
        said.push((format!("$JS.API.STREAM.MSG.GET.{stream}"), readers));
    }
    for forged in [
        "events.payment.captured.v1.x",
        "cmd.auctions.no-such.x",
        "auth.identity.no-such",
        "$JS.API.STREAM.CREATE.spy",
        "$SYS.REQ.SERVER.PING",
        "_INBOX.edge.x",
        "_INBOX.x",
    ] {
        said.push((forged.to_owned(), Vec::new()));
    }
    said.push(("qry.identity.find-user".to_owned(), one("edge")));
    said.push(("changed.stats".to_owned(), ["update-stats", "get-leaderboard"].map(str::to_owned).to_vec()));
    said.push(("changed.auctions".to_owned(), those_of_auctions(specs)));
    said.push(("$SRV.METRICS".to_owned(), one("edge")));
    said
}

/// Who changes items or says so: those that say something, their relay, and who keeps items in memory.
fn those_of_auctions(specs: &[&Spec]) -> Vec<String> {
    let saying = specs.iter().filter(|spec| spec.domain == "auctions" && !spec.emits.is_empty());
    let saying = saying.map(|spec| spec.name.to_owned());
    saying.chain(["auctions-relay", "get-item"].map(str::to_owned)).collect()
}

/// The same of what could be heard.
fn hearings(specs: &[&Spec]) -> Vec<(String, Vec<String>)> {
    let one = |name: &str| vec![name.to_owned()];
    let wide = [
        ">",
        "_INBOX.>",
        "_INBOX.*.*",
        "cmd.>",
        "auth.>",
        "events.>",
        "dlq.>",
        "qry.>",
        "$JS.>",
        "$SRV.>",
        "$SRV.*",
    ];
    let mut heard: Vec<(String, Vec<String>)> =
        wide.into_iter().map(|subject| (subject.to_owned(), Vec::new())).collect();
    for spec in specs {
        let (domain, name) = (spec.domain, spec.name);
        heard.push((format!("_INBOX.{name}.>"), one(name)));
        heard.push((format!("$SRV.*.{name}"), one(name)));
        let is = |kind: bool| if kind { one(name) } else { Vec::new() };
        let (is_query, is_rebuilt) = (spec.wakes == Wakes::Query, spec.rebuild.is_some());
        let gives_up = spec.consumer().is_some_and(|(stream, _)| stream != wire::CREDENTIALS);
        for (subject, who) in [
            (format!("qry.{domain}.{name}"), is(is_query)),
            (format!("replay.{name}"), is(is_rebuilt)),
            (format!("redrive.{name}"), is(gives_up)),
        ] {
            // Outside of its group it would get what others of its name get too.
            heard.push((subject.clone(), Vec::new()));
            heard.push((format!("{subject} spies"), Vec::new()));
            heard.push((format!("{subject} {name}"), who));
        }
        if let Wakes::Command { .. } = spec.wakes {
            heard.push((format!("svc.{domain}.{name} edge"), one("edge")));
            heard.push((format!("reply.{name}.*.*"), one("edge")));
        }
    }
    heard.push(("reply.*.x.*".to_owned(), one("edge")));
    heard.push(("live.*.*.*.x".to_owned(), one("edge")));
    heard.push(("poke.auctions".to_owned(), one("auctions-relay")));
    heard.push(("changed.auctions".to_owned(), one("get-item")));
    heard.push(("changed.stats".to_owned(), one("get-leaderboard")));
    heard.push(("changed.*".to_owned(), Vec::new()));
    heard.push(("published.auctions auctions-relay".to_owned(), one("auctions-relay")));
    heard
}

#[test]
fn every_user_may_do_what_it_needs_and_is_refused_everything_else() {
    let (nats, _folder) = server();
    let functions = crate::functions();
    let specs: Vec<&Spec> = functions.iter().map(|function| function.spec().as_ref()).collect();
    let (sayings, hearings) = (sayings(&specs), hearings(&specs));
    let (mut allowed, mut refused) = (0, 0);
    for user in users().unwrap() {
        // The one may all of this, and the other what any part may.
        if [OPERATOR, ALL_IN_ONE].contains(&user.name.as_str()) {
            continue;
        }
        let mut client = Client::of(&nats, &user.name);
        let mut check = |what: &str, subject: &str, who: &[String], may: bool| {
            assert_eq!(may, who.contains(&user.name), "{} {what} {subject}", user.name);
            if may { allowed += 1 } else { refused += 1 }
        };
        for (subject, who) in &sayings {
            check("says", subject, who, client.may_say(subject));
        }
        for (subject, who) in &hearings {
            check("hears", subject, who, client.may_hear(subject));
        }
    }

    assert!(allowed > 100 && refused > 4000, "{allowed} and {refused} were tried");
}

#[test]
fn the_operator_may_everything_and_all_in_one_process_may_what_its_parts_may() {
    let (nats, _folder) = server();
    let functions = crate::functions();
    let specs: Vec<&Spec> = functions.iter().map(|function| function.spec().as_ref()).collect();
    let (sayings, hearings) = (sayings(&specs), hearings(&specs));
    let mut operator = Client::of(&nats, OPERATOR);
    let mut all = Client::of(&nats, ALL_IN_ONE);
    let may_be_said_by_all: BTreeSet<&str> =
        sayings.iter().filter(|(_, who)| !who.is_empty()).map(|(subject, _)| subject.as_str()).collect();

    for (subject, _) in sayings.iter().filter(|(subject, _)| !subject.starts_with("$JS.API")) {
        assert!(operator.may_say(subject), "{subject}");
        let may = may_be_said_by_all.contains(subject.as_str());
        assert_eq!(all.may_say(subject), may, "{subject}");
    }
    for (subject, who) in hearings.iter().filter(|(subject, _)| !subject.starts_with("_INBOX")) {
        assert!(operator.may_hear(subject), "{subject}");
        assert_eq!(all.may_hear(subject), !who.is_empty(), "{subject}");
    }
    assert!(all.may_hear("_INBOX.outcry.>") && !all.may_hear("_INBOX.edge.>"));
    assert!(all.may_say("$JS.API.STREAM.UPDATE.EVENTS") && !all.may_say("$JS.API.STREAM.DELETE.EVENTS"));
    assert!(operator.may_hear(">") && operator.may_say("$JS.API.STREAM.NAMES"));
}
