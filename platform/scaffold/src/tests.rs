//! What is written into a copy of this very repository.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::{
    domain,
    function::{self, Kind, Wanted},
    names::Name,
    repository::Repository,
};

/// A copy of the repository in a folder that is gone with it.
struct Copy {
    _folder: Option<tempfile::TempDir>,
    root: PathBuf,
}

impl Copy {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        Self::into(root, Some(folder))
    }

    fn into(root: PathBuf, _folder: Option<tempfile::TempDir>) -> Self {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), &root);
        Self { _folder, root }
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn repository(&self) -> Repository {
        Repository::find(&self.root.join("functions")).unwrap()
    }

    fn domain(&self, name: &str) -> Result<Vec<String>, String> {
        let planned = domain::plan(&self.repository(), name.parse().unwrap());
        let (edits, left) = planned.map_err(|error| format!("{error:#}"))?;
        edits.write().unwrap();
        Ok(left)
    }

    fn relay(&self, domain: &str) -> Result<(), String> {
        let planned = domain::plan_relay(&self.repository(), &domain.parse().unwrap());
        planned.map_err(|error| format!("{error:#}"))?.write().unwrap();
        Ok(())
    }

    fn function(&self, wanted: &Wanted) -> Result<Vec<String>, String> {
        let (edits, left) =
            function::plan(&self.repository(), wanted).map_err(|error| format!("{error:#}"))?;
        edits.write().unwrap();
        Ok(left)
    }

    fn cargo(&self, arguments: &[&str], target: &Path) {
        let started = Instant::now();
        let done = Command::new(env!("CARGO"))
            .args(arguments)
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", target)
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "cargo {}\n{out}{err}", arguments.join(" "));
        let ran = out.lines().filter(|line| line.starts_with("test ") && line.ends_with("... ok")).count();
        assert!(arguments[0] != "test" || ran > 0, "cargo {} ran no test\n{out}", arguments.join(" "));
        let seconds = started.elapsed().as_secs_f64();
        writeln!(std::io::stderr(), "{seconds:>6.1} s  cargo {} ({ran} tests)", arguments.join(" ")).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, name) = (entry.path(), entry.file_name());
        let is_left = [".git", ".outcry", "target"].iter().any(|left| name == *left);
        if is_left || source.join("CACHEDIR.TAG").exists() {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&source, &to.join(name));
        } else {
            fs::copy(source, to.join(name)).unwrap();
        }
    }
}

fn wanted(domain: &str, name: &str) -> Wanted {
    let name: Name = name.parse().unwrap();
    Wanted { domain: domain.parse().unwrap(), kind: Kind::of(&name), name, hears: Vec::new(), route: None }
}

fn with_route(domain: &str, name: &str, route: &str) -> Wanted {
    Wanted { route: Some(route.into()), ..wanted(domain, name) }
}

fn hearing(domain: &str, name: &str) -> Wanted {
    Wanted { hears: vec!["bid.won.v1".into(), "bid.placed.v1".into()], ..wanted(domain, name) }
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), fs::read_to_string(entry.path()).unwrap_or_default()));
        }
    }
    found.sort();
    found
}

/// Whether these stand in the text one after the other.
#[track_caller]
fn assert_in_order(text: &str, words: &[&str]) {
    let mut rest = text;
    for word in words {
        let at = rest.find(word).unwrap_or_else(|| panic!("{word:?} is not where it belongs in\n{text}"));
        rest = &rest[at + word.len()..];
    }
}

#[test]
fn a_command_finds_its_place_in_every_list() {
    let copy = Copy::new();

    let left = copy.function(&with_route("auctions", "flag-item", "/api/v1/items/{item_id}/flag")).unwrap();

    assert!(left.is_empty(), "{left:?}");
    let library = copy.read("functions/auctions/src/lib.rs");
    assert_in_order(&library, &["pub mod create_item;", "pub mod flag_item;", "pub mod get_item;"]);
    assert_in_order(&library, &["close_auction::function(),", "flag_item::function(),"]);
    assert_in_order(
        &copy.read("functions/auctions/Cargo.toml"),
        &["\"close-auction\"", "\"flag-item\"\ntest = false\n"],
    );
    assert!(copy.read("functions/auctions/src/bin/flag-item.rs").contains("auctions::flag_item::function()"));
    let words = copy.read("functions/contracts/src/auctions.rs");
    assert_in_order(
        &words,
        &[
            "impl Query for ListBids {}",
            "pub struct FlagItem {",
            "impl Command for FlagItem {}",
            "pub struct FlagItemReply {",
            "pub enum ItemStatus",
        ],
    );
    let routes = copy.read("functions/edge/src/routes.rs");
    assert_in_order(&routes, &["CreateItem,", "FlagItem, GetItem"]);
    assert_in_order(
        &routes,
        &["ask::<ListBids>", "send::<FlagItem>([\"/api/v1/items/{item_id}/flag\"]).bearer(),", "// stats"],
    );
    let consumer = copy.read("nats/consumers/COMMANDS/flag-item.json");
    assert_in_order(&consumer, &["\"flag-item\"", "\"cmd.auctions.flag-item.*\"", "\"max_ack_pending\": 16"]);
    let readme = copy.read("README.md");
    assert_in_order(
        &readme,
        &[
            "| `close-auction` |",
            "| `flag-item` | a command | POST `/api/v1/items/{item_id}/flag` (bearer) |",
            "| `update-stats` |",
        ],
    );
    assert_in_order(
        &copy.read("docker-compose.yaml"),
        &["  auctions-outcome:\n", "  flag-item:\n    <<: *auctions\n", "  auctions-relay:\n"],
    );
}

#[test]
fn a_query_is_answered_with_what_it_asks_for() {
    let copy = Copy::new();

    copy.function(&with_route("auctions", "get-lot-words", "/api/v1/words")).unwrap();
    // There is an `Item` already, so the reply needs a name of its own.
    copy.function(&wanted("auctions", "find-item")).unwrap();

    let words = copy.read("functions/contracts/src/auctions.rs");
    assert_in_order(
        &words,
        &[
            "type Reply = LotWords;",
            "impl Query for GetLotWords {}",
            "pub struct LotWords {",
            "pub struct FindItem {",
            "type Reply = FindItemReply;",
        ],
    );
    assert!(copy.read("functions/edge/src/routes.rs").contains("ask::<GetLotWords>([\"/api/v1/words\"]),\n"));
    assert!(!copy.root.join("nats/consumers/COMMANDS/get-lot-words.json").exists());
}

#[test]
fn a_consumer_hears_what_it_names() {
    let copy = Copy::new();

    copy.function(&hearing("stats", "update-streaks")).unwrap();

    let code = copy.read("functions/stats/src/update_streaks.rs");
    assert_in_order(
        &code,
        &[
            "Reacts to [`BidPlaced`] and [`BidWon`].",
            "use contracts::auctions::{BidPlaced, BidWon};",
            "BidWon(BidWon),",
            "(BidWon::NAME, fact.key())",
            "samples/bid.placed.v1.json\")",
            "samples/bid.won.v1.json\")",
        ],
    );
    let consumer = copy.read("nats/consumers/EVENTS/update-streaks.json");
    assert_in_order(&consumer, &["\"events.bid.placed.v1.*\",\n", "\"events.bid.won.v1.*\"\n", "1024"]);
    let manifest = copy.read("functions/stats/Cargo.toml");
    assert_in_order(
        &manifest,
        &["[dependencies]", "tokio.workspace", "tracing.workspace", "uuid.workspace", "[dev-dependencies]"],
    );
    assert!(copy.read("README.md").contains("| `update-streaks` | `bid.placed.v1`, `bid.won.v1` | - |\n"));
}

#[test]
fn a_domain_finds_its_place_and_takes_functions() {
    let copy = Copy::new();

    assert_eq!(copy.domain("watchlists"), Ok(Vec::new()));
    copy.function(&with_route("watchlists", "bookmark-item", "/api/v1/items/{item_id}/bookmark")).unwrap();

    assert_in_order(
        &copy.read("Cargo.toml"),
        &["stats = {", "watchlists = { path = \"functions/watchlists\" }", "edge = {"],
    );
    assert_in_order(
        &copy.read("functions/outcry/src/lib.rs"),
        &["stats::functions()", "watchlists::functions()", "stats::database()", "watchlists::database()"],
    );
    assert!(
        copy.read("functions/outcry/Cargo.toml")
            .contains("\nuuid.workspace = true\nwatchlists.workspace = true\n")
    );
    assert_in_order(&copy.read("functions/contracts/src/lib.rs"), &["pub mod stats;", "pub mod watchlists;"]);
    assert_in_order(&copy.read(".env.example"), &["#STATS_DATABASE_URL=", "#WATCHLISTS_DATABASE_URL=\n"]);
    assert!(copy.read("functions/watchlists/sqlx.toml").contains("\"WATCHLISTS_BUILD_DATABASE_URL\""));
    let library = copy.read("functions/watchlists/src/lib.rs");
    assert_in_order(
        &library,
        &["pub mod bookmark_item;", "vec![bookmark_item::function(), watchlists_outcome::function()]"],
    );
    let manifest = copy.read("functions/watchlists/Cargo.toml");
    assert_in_order(
        &manifest,
        &[
            "[dependencies]\ncontracts.workspace = true\nplatform.",
            "[dev-dependencies]\ntesting.workspace = true\ntokio.workspace = true\n",
            "\"bookmark-item\"",
            "\"watchlists-outcome\"",
        ],
    );
    assert_in_order(
        &copy.read("functions/edge/src/routes.rs"),
        &["        // watchlists\n        send::<BookmarkItem>", "\n    ]\n"],
    );
}

#[test]
fn a_domain_gets_a_relay_once() {
    let copy = Copy::new();

    assert_eq!(copy.relay("stats"), Ok(()));

    let relay = copy.read("functions/stats/src/bin/stats-relay.rs");
    assert!(relay.contains("platform::relay_main(stats::DOMAIN, \"stats-relay\")"), "{relay}");
    assert!(
        copy.read("functions/stats/Cargo.toml")
            .ends_with("\n\n[[bin]]\nname = \"stats-relay\"\ntest = false\n")
    );
    assert!(copy.relay("stats").unwrap_err().starts_with("stats-relay is taken"));
    assert!(copy.relay("auctions").unwrap_err().starts_with("auctions-relay is taken"));
    assert!(copy.relay("edge").unwrap_err().starts_with("there is no domain edge"));
}

#[test]
fn a_second_time_is_refused_and_changes_nothing() {
    let copy = Copy::new();
    copy.domain("watchlists").unwrap();
    copy.function(&wanted("watchlists", "bookmark-item")).unwrap();
    let before = files(&copy.root);

    let function = copy.function(&wanted("watchlists", "bookmark-item")).unwrap_err();
    let elsewhere = copy.function(&wanted("stats", "bookmark-item")).unwrap_err();
    let domain = copy.domain("watchlists").unwrap_err();

    let taken = "is taken: functions/watchlists/Cargo.toml has a program or a library of that name";
    assert_eq!((function, elsewhere), (format!("bookmark-item {taken}"), format!("bookmark-item {taken}")));
    assert_eq!(domain, format!("watchlists {taken}"));
    assert_eq!(files(&copy.root), before);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let copy = Copy::new();
    let before = files(&copy.root);
    let of_kind = |name: &str, kind| Wanted { kind, ..wanted("auctions", name) };
    let unheard = Wanted { hears: vec!["bid.stolen.v1".into()], ..hearing("stats", "update-streaks") };
    for (wanted, why) in [
        (wanted("auction", "bookmark-item"), "there is no domain auction: there are auctions, "),
        (wanted("auction", "bookmark-item"), "`just new-domain auction` makes it"),
        (wanted("edge", "bookmark-item"), "there is no domain edge"),
        (wanted("auctions", "login"), "login is taken: functions/identity/Cargo.toml"),
        (wanted("auctions", "auctions-relay"), "auctions-relay is taken"),
        (wanted("auctions", "edge"), "edge is taken: functions/edge/Cargo.toml"),
        (wanted("auctions", "stats-relay"), "stats-relay is kept for a part"),
        (wanted("stats", "stats-outcome"), "stats-outcome is kept for a part"),
        (wanted("auctions", "async-nats"), "async-nats is taken: a library"),
        (wanted("auctions", "tracing"), "tracing is taken: a library"),
        (wanted("auctions", "store"), "functions/auctions/src/store.rs is there already"),
        (wanted("auctions", "bid"), "Bid means something else in functions/contracts/src/auctions.rs"),
        (wanted("stats", "cx"), "Cx means something else"),
        (wanted("stats", "user-id"), "UserId means something else"),
        (
            wanted("stats", "update-streaks"),
            "what does update-streaks hear? --hears with some of bid.placed.v1, ",
        ),
        (unheard, "nobody says bid.stolen.v1; what is said: bid.placed.v1, "),
        (hearing("stats", "greet"), "--hears is for --kind events"),
        (Wanted { kind: Kind::Due, ..hearing("stats", "greet") }, "--hears is for --kind events"),
        (
            Wanted { kind: Kind::Due, ..with_route("stats", "greet", "/greet") },
            "only a command or a query has a route",
        ),
        (with_route("stats", "greet", "greet"), "\"greet\" is no path of a route"),
        (with_route("stats", "greet", "/greet me"), "\"/greet me\" is no path of a route"),
        (with_route("stats", "greet", "/login"), "/login is taken: send::<Login>"),
        (
            with_route("stats", "greet", "/api/v1/items/{id}/greet"),
            "{id} is called {item_id} in /api/v1/items/{item_id}",
        ),
        (of_kind("close-lots", Kind::Events), "what does close-lots hear?"),
    ] {
        let refused = copy.function(&wanted).expect_err(why);
        assert!(refused.contains(why), "{} {}: {refused}", wanted.domain, wanted.name);
    }
    for (name, why) in [
        ("stats", "stats is taken"),
        ("login", "login is taken"),
        ("time", "time is taken: a library"),
        ("memchr", "memchr is taken: a package"),
        ("money", "functions/contracts/src/money.rs is there already"),
        ("group", "group means something to Postgres"),
        ("watch-lists", "a domain is one word"),
    ] {
        let refused = copy.domain(name).expect_err(why);
        assert!(refused.contains(why), "{name}: {refused}");
    }
    assert_eq!(files(&copy.root), before);
    let elsewhere = tempfile::tempdir().unwrap();
    let lost = Repository::find(elsewhere.path()).err().unwrap().to_string();
    assert!(lost.contains("is not in the repository of Outcry"), "{lost}");
}

#[test]
fn the_first_word_of_a_name_says_its_kind() {
    for (name, kind) in [
        ("bookmark-item", Kind::Command),
        ("online-users", Kind::Command),
        ("list-bids", Kind::Query),
        ("show-item", Kind::Query),
        ("notify-outbid", Kind::Events),
        ("on-payment", Kind::Events),
        ("remind-bidders", Kind::Due),
    ] {
        assert_eq!(Kind::of(&name.parse().unwrap()), kind, "{name}");
    }
}

/// The promise itself: what is written compiles without a warning and passes its tests and those of the architecture.
///
/// `SCAFFOLD_TARGET_DIR=<folder> cargo test -p scaffold -- --ignored --nocapture`; the folder keeps what was compiled,
/// and the copy.
#[test]
#[ignore = "compiles the whole workspace: minutes"]
fn what_is_written_compiles_and_passes_its_tests() {
    let target = PathBuf::from(std::env::var_os("SCAFFOLD_TARGET_DIR").expect("set SCAFFOLD_TARGET_DIR"));
    // In one place, so that the next run replaces what this one has compiled.
    let root = target.join("repository");
    let _ = fs::remove_dir_all(&root);
    let copy = Copy::into(root, None);
    copy.function(&with_route("stats", "greet-bidder", "/api/v1/users/me/greeting")).unwrap();
    copy.function(&with_route("auctions", "get-lot-words", "/api/v1/items/{item_id}/words")).unwrap();
    copy.function(&hearing("stats", "update-streaks")).unwrap();
    copy.function(&wanted("auctions", "expire-drafts")).unwrap();
    copy.domain("watchlists").unwrap();
    copy.function(&with_route("watchlists", "bookmark-item", "/api/v1/items/{item_id}/bookmark")).unwrap();

    copy.cargo(&["fmt", "--all", "--", "--check"], &target);
    copy.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &target);
    for (domain, name) in [
        ("stats", "greet_bidder"),
        ("auctions", "get_lot_words"),
        ("stats", "update_streaks"),
        ("auctions", "expire_drafts"),
        ("watchlists", "bookmark_item"),
    ] {
        copy.cargo(&["test", "--package", domain, name], &target);
    }
    copy.cargo(&["run", "--package", "outcry", "--bin", "outcry", "accounts", "nats/accounts.conf"], &target);
    copy.cargo(&["test", "--package", "outcry", "--lib"], &target);
    copy.cargo(&["test", "--package", "edge", "--lib"], &target);
}
