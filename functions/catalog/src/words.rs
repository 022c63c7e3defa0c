//! Words as they are indexed and as they are searched for.

use uuid::Uuid;

/// How many `-` of a search text are kept. Postgres gives up on 32 that follow each other.
const MOST_DASHES: usize = 20;

/// In lower case, by Unicode and not by the locale of the database.
pub(crate) fn plain(text: &str) -> String {
    text.to_lowercase()
}

/// The outcome of an item that has none yet.
pub(crate) const RUNNING: &str = "running";

/// What the index of words knows of an item beside its words, as lexemes that stand quoted in a `tsvector` and a
/// `tsquery`. No visitor can search for them: capital letters are in no word.
pub(crate) fn facts(category_id: Option<i64>, seller_id: Option<Uuid>, outcome: Option<&str>) -> Vec<String> {
    let category = category_id.map(|id| format!("'C{id}'"));
    let seller = seller_id.map(|id| format!("'S{id}'"));
    let outcome = outcome.map(|outcome| format!("'{}'", outcome.to_uppercase()));
    [category, seller, outcome].into_iter().flatten().collect()
}

/// A search text that Postgres takes whatever it is; none when it is blank.
pub(crate) fn search(text: &str) -> Option<String> {
    let mut dashes = 0;
    let harmless = |c| match c {
        // There is no NUL in any text that Postgres keeps.
        '\0' => ' ',
        '-' => {
            dashes += 1;
            if dashes > MOST_DASHES { ' ' } else { '-' }
        }
        other => other,
    };
    let text: String = plain(text).chars().map(harmless).collect();
    Some(text).filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_texts_search_for_nothing() {
        for blank in ["", " \t\n", "\0", "\u{2003}"] {
            assert_eq!(search(blank), None, "{blank:?}");
        }
    }

    #[test]
    fn what_is_searched_for_stays_what_it_is() {
        assert_eq!(search("T-Shirt -\"ŁÓŻKO\"").as_deref(), Some("t-shirt -\"łóżko\""));
        assert_eq!(search(&"-".repeat(200)).map(|text| text.matches('-').count()), Some(MOST_DASHES));
    }
}
