//! Names: the one word of a function or a domain, in the spellings that code needs.

use std::{fmt, str::FromStr};

use anyhow::{bail, ensure};

/// The longest name: it becomes part of subjects, consumers, images and metrics.
const LONGEST: usize = 40;

/// What cannot be the name of a module.
const KEYWORDS: &str = "abstract as async await become box break const continue crate do dyn else enum extern false \
     final fn for gen if impl in let loop macro match mod move mut override priv pub ref return self static struct \
     super trait true try type typeof unsafe unsized use virtual where while yield";

/// What every domain's crate has, what cargo keeps for itself, and the crates that are always there.
const TAKEN: &str = "function functions database lib main tests build deps examples incremental alloc core proc-macro \
     std test";

/// What Postgres would not take as the unquoted name of a database and a role.
const SQL_WORDS: &str = "all analyse analyze and any array as asc asymmetric authorization binary both case cast check \
     collate collation column concurrently constraint create cross default deferrable desc distinct do else end \
     except false fetch for foreign freeze from full grant group having ilike in initially inner intersect into is \
     isnull join lateral leading left like limit localtime localtimestamp natural none not notnull null offset on \
     only or order outer overlaps placing postgres primary public references returning right select similar some \
     symmetric table tablesample template0 template1 then to trailing true union unique user using variadic verbose \
     when where window with";

/// A name in kebab-case, such as `place-bid`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(String);

impl Name {
    /// `place-bid`.
    pub(crate) fn kebab(&self) -> &str {
        &self.0
    }

    /// `place_bid`.
    pub(crate) fn snake(&self) -> String {
        self.0.replace('-', "_")
    }

    /// `PlaceBid`.
    pub(crate) fn camel(&self) -> String {
        self.words().map(capital).collect()
    }

    /// `Bid` of `place-bid`: what comes after the verb, when that can be the name of a type.
    pub(crate) fn object(&self) -> Option<String> {
        let object: String = self.words().skip(1).map(capital).collect();
        object.starts_with(|first: char| first.is_ascii_uppercase()).then_some(object)
    }

    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split('-')
    }

    /// As the name of a domain: one word, also for Postgres.
    pub(crate) fn of_domain(self) -> anyhow::Result<Self> {
        ensure!(
            !self.0.contains('-'),
            "{self}: a domain is one word, because it names a database and a role"
        );
        ensure!(
            !is_one_of(SQL_WORDS, &self.0),
            "{self} means something to Postgres: choose another word, perhaps {self}s"
        );
        Ok(self)
    }
}

impl FromStr for Name {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let plain = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if !text.split('-').all(plain) || text.starts_with(|first: char| first.is_ascii_digit()) {
            bail!("{text:?} is not a name: words of a-z and digits, joined by hyphens, such as place-bid");
        }
        ensure!(text.len() <= LONGEST, "{text} has {} characters: at most {LONGEST} are a name", text.len());
        ensure!(
            !is_one_of(KEYWORDS, text),
            "{text} is a keyword of Rust, and a function is a module as well"
        );
        ensure!(!is_one_of(TAKEN, text), "{text} means something else in a crate: choose another name");
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_one_of(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|one| one == word)
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_three_spellings() {
        let name: Name = "show-2fa-codes".parse().unwrap();

        assert_eq!(
            (name.kebab(), &*name.snake(), &*name.camel()),
            ("show-2fa-codes", "show_2fa_codes", "Show2faCodes")
        );
    }

    #[test]
    fn the_object_of_a_name_may_be_a_type() {
        let object = |name: &str| name.parse::<Name>().unwrap().object();

        assert_eq!(object("get-user-stats").as_deref(), Some("UserStats"));
        assert_eq!((object("search"), object("show-2fa-codes")), (None, None));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let longest = "a".repeat(41);
        for (text, why) in [
            ("", "is not a name"),
            ("Place-Bid", "is not a name"),
            ("place_bid", "is not a name"),
            ("place bid", "is not a name"),
            ("-place", "is not a name"),
            ("place-", "is not a name"),
            ("place--bid", "is not a name"),
            ("2fa", "is not a name"),
            ("gebot-für", "is not a name"),
            ("../place", "is not a name"),
            (longest.as_str(), "has 41 characters"),
            ("move", "is a keyword"),
            ("gen", "is a keyword"),
            ("function", "means something else"),
            ("lib", "means something else"),
            ("deps", "means something else"),
        ] {
            let refused = text.parse::<Name>().unwrap_err().to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        assert!("a".repeat(40).parse::<Name>().is_ok());
    }

    #[test]
    fn a_domain_is_one_word_that_postgres_takes() {
        let domain = |text: &str| text.parse::<Name>().unwrap().of_domain();

        assert!(domain("watchlists").is_ok());
        assert!(domain("watch-lists").unwrap_err().to_string().contains("one word"));
        assert!(domain("order").unwrap_err().to_string().contains("perhaps orders"));
    }
}
