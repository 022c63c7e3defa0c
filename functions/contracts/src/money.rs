//! Money: whole minor units and a currency, never a float.
//!
//! What a caller sends is an [`Amount`]: decimal, in major units, without a currency. It becomes
//! [`Money`] when the currency is known, which for a bid is the item's.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An ISO 4217 code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

impl Currency {
    /// The US dollar, where the seller names none.
    pub const USD: Self = Self(*b"USD");

    /// The code in capitals.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// How many decimals the minor unit has (ISO 4217, "minor unit").
    pub fn exponent(self) -> u32 {
        match &self.0 {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF"
            | b"UGX" | b"UYI" | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            _ => 2,
        }
    }

    /// The smallest step a price can take.
    pub fn minor_unit(self) -> Money {
        Money { minor: 1, currency: self }
    }
}

impl Default for Currency {
    fn default() -> Self {
        Self::USD
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        match text.as_bytes() {
            code @ &[a, b, c] if code.iter().all(u8::is_ascii_alphabetic) => {
                Ok(Self([a, b, c].map(|letter| letter.to_ascii_uppercase())))
            }
            _ => Err(MoneyError::Currency),
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = MoneyError;

    fn try_from(text: String) -> Result<Self, MoneyError> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.code().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Why something is not money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a decimal number.
    #[error("expected an amount such as 150 or \"150.00\"")]
    Format,
    /// More digits than can be kept exactly.
    #[error("the amount is out of range")]
    Range,
    /// More decimals than the currency has.
    #[error("the amount has more decimals than {0} allows")]
    Decimals(Currency),
    /// Not three letters.
    #[error("expected a currency code of three letters such as USD")]
    Currency,
}

/// A decimal amount in major units, exactly as it was sent. JSON form: a number or a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    digits: i64,
    /// How many of the digits are decimals.
    decimals: u32,
}

impl Amount {
    /// The amount in a currency's minor units.
    pub fn in_currency(self, currency: Currency) -> Result<Money, MoneyError> {
        let exponent = currency.exponent();
        let Self { mut digits, mut decimals } = self;
        while decimals > exponent && digits % 10 == 0 {
            (digits, decimals) = (digits / 10, decimals - 1);
        }
        let missing = exponent.checked_sub(decimals).ok_or(MoneyError::Decimals(currency))?;
        let scale = 10_i64.checked_pow(missing).ok_or(MoneyError::Range)?;
        let minor = digits.checked_mul(scale).ok_or(MoneyError::Range)?;
        Ok(Money { minor, currency })
    }

    /// True above zero.
    pub fn is_positive(self) -> bool {
        self.digits > 0
    }

    /// True below zero.
    pub fn is_negative(self) -> bool {
        self.digits < 0
    }

    /// True when this is worth more than `other`, however many decimals either is written with.
    pub fn is_above(self, other: Self) -> bool {
        let most = self.decimals.max(other.decimals);
        // What does not fit is beyond every amount with that many decimals.
        let scaled = |amount: Self| {
            let digits = i128::from(amount.digits);
            let scaled =
                10_i128.checked_pow(most - amount.decimals).and_then(|scale| digits.checked_mul(scale));
            scaled.unwrap_or(i128::MAX * digits.signum())
        };
        scaled(self) > scaled(other)
    }
}

impl FromStr for Amount {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let ends_in_point = unsigned.ends_with('.');
        if whole.is_empty() || ends_in_point || !is_number(whole) || !is_number(fraction) {
            return Err(MoneyError::Format);
        }
        let mut digits: i64 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            digits = digits
                .checked_mul(10)
                .and_then(|digits| digits.checked_add(i64::from(digit - b'0')))
                .ok_or(MoneyError::Range)?;
        }
        let decimals = u32::try_from(fraction.len()).map_err(|_| MoneyError::Range)?;
        Ok(Self { digits: if negative { -digits } else { digits }, decimals })
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        decimal(f, self.digits, self.decimals)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount such as 150 or \"150.00\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Amount, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Amount, E> {
                let digits = i64::try_from(number).map_err(|_| E::custom(MoneyError::Range))?;
                Ok(Amount { digits, decimals: 0 })
            }

            fn visit_i64<E: de::Error>(self, digits: i64) -> Result<Amount, E> {
                Ok(Amount { digits, decimals: 0 })
            }

            /// A JSON number with decimals. Up to 15 digits the shortest decimal that reads back
            /// as the same float is the one that was written; beyond that it may not be, and money
            /// is not guessed.
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Amount, E> {
                let text = number.to_string();
                if text.bytes().filter(u8::is_ascii_digit).count() > 15 {
                    return Err(E::custom("send an amount of more than 15 digits as a string"));
                }
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Whole minor units of a currency. Arithmetic is checked: it has a result or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// Minor units, for example cents.
    pub minor: i64,
    /// Of what.
    pub currency: Currency,
}

impl Money {
    /// This many minor units.
    pub fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// The sum; none when it is out of range or of two currencies.
    pub fn plus(self, other: Self) -> Option<Self> {
        if self.currency != other.currency {
            return None;
        }
        let minor = self.minor.checked_add(other.minor)?;
        Some(Self { minor, ..self })
    }
}

/// Major units with the currency's decimals, for example `150.00`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        decimal(f, self.minor, self.currency.exponent())
    }
}

/// As it is shown: the currency stands beside it, once for all amounts of a thing.
impl From<Money> for Amount {
    fn from(money: Money) -> Self {
        Self { digits: money.minor, decimals: money.currency.exponent() }
    }
}

/// `digits` with the last `decimals` of them behind a point.
fn decimal(f: &mut fmt::Formatter<'_>, digits: i64, decimals: u32) -> fmt::Result {
    let sign = if digits < 0 { "-" } else { "" };
    let digits = digits.unsigned_abs();
    if decimals == 0 {
        return write!(f, "{sign}{digits}");
    }
    let Some(scale) = 10_u64.checked_pow(decimals) else {
        // More decimals than digits can hold: only an amount such as 0.00…01 that no currency has.
        return write!(f, "{sign}0.{digits:0>width$}", width = decimals as usize);
    };
    write!(f, "{sign}{}.{:0>width$}", digits / scale, digits % scale, width = decimals as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Result<Amount, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn amounts_are_read_from_numbers_and_strings() {
        for (json, printed) in [
            ("150", "150.00"),
            ("150.5", "150.50"),
            ("\"150.00\"", "150.00"),
            ("0.01", "0.01"),
            ("\"150.000\"", "150.00"),
            ("1e2", "100.00"),
            ("-0.5", "-0.50"),
        ] {
            let money = read(json).unwrap().in_currency(Currency::USD).unwrap();
            assert_eq!(money.to_string(), printed, "{json}");
        }
    }

    #[test]
    fn what_is_not_an_amount_is_refused() {
        for json in [
            "\"1,000\"",
            "\"\"",
            "\"NaN\"",
            "\"1e5\"",
            "\".5\"",
            "\"5.\"",
            "\" 5\"",
            "\"+5\"",
            "1e309",
            "9223372036854775808",
            "true",
            "null",
            "123456789012.12345",
            "[1]",
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }

    #[test]
    fn decimals_beyond_the_currency_are_refused() {
        let (yen, dinar) = ("JPY".parse().unwrap(), "KWD".parse().unwrap());
        for (amount, currency, good) in [
            ("1.005", Currency::USD, false),
            ("1.50", yen, false),
            ("1.00", yen, true),
            ("1.005", dinar, true),
        ] {
            let amount: Amount = amount.parse().unwrap();
            assert_eq!(amount.in_currency(currency).is_ok(), good, "{amount} {currency}");
        }
    }

    #[test]
    fn amounts_compare_by_value_not_by_how_they_are_written() {
        let tiny = format!("0.{}1", "0".repeat(99));
        for (more, less) in [
            ("2", "1.99"),
            ("0.10", "0.0999"),
            ("1", "-5"),
            ("0", "-0.01"),
            ("9223372036854775807", &tiny),
            (&tiny, "0"),
        ] {
            let (more, less): (Amount, Amount) = (more.parse().unwrap(), less.parse().unwrap());
            assert!(more.is_above(less) && !less.is_above(more), "{more} {less}");
        }
        let (two, also_two): (Amount, Amount) = ("2".parse().unwrap(), "2.00".parse().unwrap());
        assert!(!two.is_above(also_two) && !also_two.is_above(two));
    }

    #[test]
    fn an_amount_that_does_not_fit_is_refused() {
        let amount: Amount = "92233720368547759".parse().unwrap();
        assert_eq!(amount.in_currency(Currency::USD).unwrap_err(), MoneyError::Range);
    }

    proptest! {
        #[test]
        fn printed_money_reads_back(minor in any::<i64>().prop_filter("-2^63 has no opposite", |m| *m != i64::MIN)) {
            for currency in ["USD", "JPY", "KWD"] {
                let money = Money::new(minor, currency.parse().unwrap());
                let amount: Amount = money.to_string().parse().unwrap();
                prop_assert_eq!(amount.in_currency(money.currency).unwrap(), money);
            }
        }
    }
}
