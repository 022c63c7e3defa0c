//! What somebody bids on.

use std::fmt;

use garde::Validate;
use platform::{Message, Query, Refused};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IntoDeserializer, SeqAccess},
};

use super::Item;
use crate::{Amount, Page, page::PageQuery};

/// List the items that the caller bid on, as they are now, the one that the caller joined last first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct ListMyBids {
    /// Where the caller stands so: one word, or several with commas between them. All when there is none.
    #[serde(default, deserialize_with = "words")]
    #[garde(skip)]
    pub status: Vec<Standing>,
    /// Which part of the list.
    #[serde(flatten)]
    #[garde(skip)]
    pub page: PageQuery,
}

impl Message for ListMyBids {
    const DOMAIN: &'static str = "auctions";
    const FUNCTION: &'static str = "list-my-bids";
    type Reply = Page<MyBid>;

    /// Under the names that callers use: they see no `page` around its members.
    fn check(&self) -> Result<(), Refused> {
        platform::wire::check(&self.page)
    }
}

impl Query for ListMyBids {}

/// What somebody bid on an item, and where that got them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MyBid {
    /// The item as it is now.
    pub item: Item,
    /// The highest accepted bid of theirs.
    pub amount: Amount,
    /// How far they go, while they lead and that is further than the price. Nobody else sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_amount: Option<Amount>,
    /// How many bids of theirs were accepted, with those that were made for them.
    pub bids: i64,
    /// Where they stand.
    pub status: Standing,
}

/// Where a bidder of an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Leads, and the hammer has not fallen.
    Winning,
    /// Does not lead, and the hammer has not fallen.
    Outbid,
    /// Bought it.
    Won,
    /// It ended otherwise: sold to somebody else, or not at all.
    Lost,
}

impl Standing {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Winning => "winning",
            Self::Outbid => "outbid",
            Self::Won => "won",
            Self::Lost => "lost",
        }
    }
}

/// Words of a list, or of a text with commas between them as a query string has it.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Standing>, D::Error> {
    struct Words;

    impl<'de> de::Visitor<'de> for Words {
        type Value = Vec<Standing>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("words with commas between them")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            words.map(|word| Standing::deserialize(word.into_deserializer())).collect()
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut words = Vec::new();
            while let Some(word) = list.next_element()? {
                words.push(word);
            }
            Ok(words)
        }
    }

    deserializer.deserialize_any(Words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(status: serde_json::Value) -> serde_json::Result<Vec<Standing>> {
        serde_json::from_value::<ListMyBids>(json!({ "status": status, "limit": "5" }))
            .map(|list| list.status)
    }

    #[test]
    fn one_word_or_several_are_read_and_written_words_too() {
        assert_eq!(read(json!("winning")).unwrap(), [Standing::Winning]);
        assert_eq!(read(json!("won, lost")).unwrap(), [Standing::Won, Standing::Lost]);
        assert_eq!(read(json!("")).unwrap(), []);
        assert_eq!(serde_json::from_value::<ListMyBids>(json!({})).unwrap().status, []);
        let all = [Standing::Winning, Standing::Outbid, Standing::Won, Standing::Lost];
        assert_eq!(read(json!(all)).unwrap(), all);
        for standing in all {
            assert_eq!(json!(standing), standing.as_str());
        }
    }

    #[test]
    fn a_word_that_is_not_known_is_answered_with_those_that_are() {
        for status in [json!("winning,open"), json!("Won"), json!(["open"])] {
            let error = read(status).unwrap_err().to_string();
            assert!(error.contains("`winning`, `outbid`, `won`, `lost`"), "{error}");
        }
        assert!(read(json!(7)).unwrap_err().to_string().contains("words with commas between them"));
    }
}
