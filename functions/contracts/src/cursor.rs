//! Where a page ended, as callers carry it to the next one: opaque, and good for the same order only.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use platform::Refused;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// The place after the member with this id, whose place in the order follows from `key`.
pub fn encode<S: Serialize>(sort: S, key: &impl Serialize, id: Uuid) -> serde_json::Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(&(sort, key, id))?))
}

/// Reads a place back; refuses one of another order, and what is none.
pub fn decode<S, K>(sort: S, cursor: &str) -> Result<(K, Uuid), Refused>
where
    S: DeserializeOwned + PartialEq,
    K: DeserializeOwned,
{
    let json = URL_SAFE_NO_PAD.decode(cursor).unwrap_or_default();
    match serde_json::from_slice::<(S, K, Uuid)>(&json) {
        Ok((of, key, id)) if of == sort => Ok((key, id)),
        _ => Err(Refused::invalid_member("cursor", "is not one that was given out for this sort")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Amount, Timestamp, catalog::ItemSort};

    const ID: Uuid = Uuid::from_u128(7);

    #[test]
    fn a_place_reads_back_exactly_and_fits_into_an_address() {
        let (time, price) = (Timestamp::now(), "9223372036854775.807".parse::<Amount>().unwrap());

        let newest = encode(ItemSort::Newest, &time, ID).unwrap();
        let dearest = encode(ItemSort::PriceDesc, &price, ID).unwrap();

        assert_eq!(decode(ItemSort::Newest, &newest).unwrap(), (time, ID));
        assert_eq!(decode(ItemSort::PriceDesc, &dearest).unwrap(), (price, ID));
        for cursor in [newest, dearest] {
            assert!(
                cursor.len() < 200 && cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            );
        }
    }

    #[test]
    fn what_was_not_given_out_for_this_order_is_refused() {
        let newest = encode(ItemSort::Newest, &Timestamp::now(), ID).unwrap();
        let cheapest = encode(ItemSort::PriceAsc, &"1.00", ID).unwrap();
        let not_a_price = encode(ItemSort::PriceDesc, &"NaN", ID).unwrap();
        for cursor in
            [&newest, &cheapest, &not_a_price, "", "x", "12", "===", "bnVsbA", &format!("{newest}x")]
        {
            let refused = decode::<_, Amount>(ItemSort::PriceDesc, cursor).unwrap_err();

            assert_eq!((refused.status, refused.code.as_ref()), (400, "INVALID_INPUT"), "{cursor}");
            assert!(refused.details.unwrap().starts_with("cursor: "), "{cursor}");
        }
    }
}
