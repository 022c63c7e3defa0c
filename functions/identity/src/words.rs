//! The words by which people are found. Pure.

use contracts::identity::User;

/// The words of somebody's names: those of the name, the user name, and the parts of the user name.
pub(crate) fn of(user: &User) -> Vec<String> {
    let username = plain(&user.username);
    let mut words: Vec<String> = split(&plain(&user.name)).collect();
    words.extend(username.split(['.', '-', '_']).filter(|part| !part.is_empty()).map(str::to_owned));
    words.push(username);
    words
}

/// What finds those who have a word for each of these that begins with it, as Postgres reads it; none when there is
/// nothing to look for.
pub(crate) fn search(text: &str) -> Option<String> {
    // Quoted, so that no character means anything to Postgres.
    let quoted = |word: String| format!("'{}':*", word.replace('\\', r"\\").replace('\'', "''"));
    let words: Vec<String> = split(&plain(text)).map(quoted).collect();
    Some(words.join(" & ")).filter(|words| !words.is_empty())
}

/// In lower case, by Unicode and not by the locale of the database.
fn plain(text: &str) -> String {
    text.to_lowercase()
}

/// At blanks, and at what no text in Postgres may hold.
fn split(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words.filter(|word| !word.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_quotes_each_word() {
        assert_eq!(search(" ŁÓŻKO  o'neil\ta\\b ").as_deref(), Some(r"'łóżko':* & 'o''neil':* & 'a\\b':*"));
        for blank in ["", " \t", "\0", "\u{2003}"] {
            assert_eq!(search(blank), None, "{blank:?}");
        }
    }
}
