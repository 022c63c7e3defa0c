//! The rules of second factors. Pure: no database, no clock, no chance; what they need comes in.

use std::time::Duration;

use aws_lc_rs::digest;
use contracts::identity::{Enrolment, Secret};
use data_encoding::BASE32_NOPAD;
use platform::Timestamp;
use qrcode::{QrCode, render::svg};
use totp_rs::{Algorithm, Builder, Totp};

/// Bytes of a seed: as many as SHA-1 gives (RFC 4226).
pub const SEED: usize = 20;
/// How many recovery codes there are.
pub const CODES: usize = 10;
/// Random bytes of a recovery code; 24 characters of base32.
pub const CODE: usize = 15;
/// How many wrong tries an account has in [`HOUR`] (security.md 2.2).
pub const TRIES: i32 = 20;
/// How long wrong tries count, from the first of them.
pub const HOUR: Duration = Duration::from_secs(3_600);
/// How long an authenticator may take to be enrolled.
pub const ENROLMENT: Duration = Duration::from_secs(900);

/// What authenticators show above the codes.
const ISSUER: &str = "Outcry";
const DIGITS: u8 = 6;
const STEP: u64 = 30;

/// What somebody typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Code {
    /// Six digits.
    Totp(String),
    /// The SHA-256 of a recovery code.
    Recovery(Vec<u8>),
    /// Neither.
    Garbage,
}

impl Code {
    /// Reads a code as people type it: spaces, hyphens and case do not matter.
    pub fn read(typed: &Secret) -> Self {
        let plain: String = typed
            .0
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '-')
            .map(|c| c.to_ascii_uppercase())
            .take(100)
            .collect();
        if plain.len() == usize::from(DIGITS) && plain.bytes().all(|b| b.is_ascii_digit()) {
            return Self::Totp(plain);
        }
        match BASE32_NOPAD.decode(plain.as_bytes()) {
            Ok(bytes) if bytes.len() == CODE => Self::Recovery(hash(&plain)),
            _ => Self::Garbage,
        }
    }
}

/// The recovery code of these random bytes, and what is stored of it.
pub fn recovery_code(random: [u8; CODE]) -> (Secret, Vec<u8>) {
    let code = BASE32_NOPAD.encode(&random);
    let hash = hash(&code);
    (Secret(code), hash)
}

fn hash(code: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, code.as_bytes()).as_ref().to_vec()
}

/// RFC 6238 with what every authenticator knows: SHA-1, six digits, steps of 30 seconds.
fn totp(seed: &[u8], account: &str) -> anyhow::Result<Totp> {
    let totp = Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(DIGITS)
        .with_step_duration(STEP)
        .with_skew(0)
        .with_secret(seed)
        .with_issuer(Some(ISSUER))
        // A colon parts the issuer from the account.
        .with_account_name(account.replace(':', "_"))
        .build();
    totp.map_err(|error| anyhow::anyhow!("an authenticator: {error}"))
}

/// The step whose code this is: the present one or the one before it, for who types slowly.
pub fn step(seed: &[u8], code: &str, now: Timestamp) -> anyhow::Result<Option<i64>> {
    let (totp, now) = (totp(seed, "")?, u64::try_from(now.unix_seconds())?);
    let step = totp.check(code, now).or_else(|| totp.check(code, now.saturating_sub(STEP)));
    Ok(step.map(i64::try_from).transpose()?)
}

/// Three ways to tell an authenticator the seed.
pub fn enrolment(seed: &[u8], account: &str) -> anyhow::Result<Enrolment> {
    let url = totp(seed, account)?.to_url().map_err(|error| anyhow::anyhow!("an otpauth URL: {error}"))?;
    let qr = QrCode::new(&url)?.render::<svg::Color<'_>>().min_dimensions(240, 240).build();
    Ok(Enrolment { otpauth_url: Secret(url), secret: Secret(BASE32_NOPAD.encode(seed)), qr_svg: Secret(qr) })
}

/// Whether an account has been tried too often.
pub fn is_worn_out(wrong: i32, since: Option<Timestamp>, now: Timestamp) -> bool {
    wrong >= TRIES && since.is_some_and(|since| now.since(since) < HOUR)
}

/// The count of wrong tries with one more, and when it began.
pub fn one_more(wrong: i32, since: Option<Timestamp>, now: Timestamp) -> (i32, Timestamp) {
    match since {
        Some(since) if now.since(since) < HOUR => (wrong + 1, since),
        _ => (1, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B: the seed of its table for SHA-1.
    const RFC: &[u8] = b"12345678901234567890";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_nanos(i128::from(seconds) * 1_000_000_000).unwrap()
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        // The last six of its eight digits.
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
        ] {
            assert_eq!(step(RFC, code, at(seconds)).unwrap(), Some(seconds / 30), "{seconds}");
        }
    }

    #[test]
    fn a_code_counts_in_its_step_and_the_next_and_never_before() {
        let taken =
            [-1, 0, 29, 30, 59, 60].map(|after| step(RFC, "050471", at(1_111_111_110 + after)).unwrap());

        let known = Some(37_037_037);
        assert_eq!(taken, [None, known, known, known, known, None]);
        assert_eq!(step(RFC, "050472", at(1_111_111_111)).unwrap(), None);
    }

    #[test]
    fn codes_are_read_as_people_type_them() {
        let (code, stored) = recovery_code([7; CODE]);
        assert_eq!((code.0.len(), code.0.as_str()), (24, "A4DQOBYHA4DQOBYHA4DQOBYH"));

        assert_eq!(Code::read(&Secret(" 123 456 ".into())), Code::Totp("123456".into()));
        for typed in ["A4DQOBYHA4DQOBYHA4DQOBYH", "a4dq-obyh-a4dq-obyh-a4dq-obyh"] {
            assert_eq!(Code::read(&Secret(typed.into())), Code::Recovery(stored.clone()), "{typed}");
        }
        for typed in [
            "",
            "12345",
            "1234567",
            "12345a",
            "１２３４５６",
            "A4DQOBYHA4DQOBYHA4DQOBY",
            "A4DQOBYHA4DQOBYHA4DQOBY1",
        ] {
            assert_eq!(Code::read(&Secret(typed.into())), Code::Garbage, "{typed}");
        }
    }

    #[test]
    fn an_authenticator_that_reads_the_url_shows_the_codes_that_are_taken() {
        let told = enrolment(RFC, "jo:hn+tag@test.com").unwrap();

        let authenticator = Totp::from_url(&told.otpauth_url.0).unwrap();
        let code = authenticator.generate(1_111_111_111).to_string();
        assert_eq!(step(RFC, &code, at(1_111_111_111)).unwrap(), Some(37_037_037));
        assert_eq!(told.secret.0, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert!(told.otpauth_url.0.starts_with("otpauth://totp/Outcry:jo_hn"), "{}", told.otpauth_url.0);
        assert!(told.qr_svg.0.contains("<svg"), "{}", told.qr_svg.0);
    }

    #[test]
    fn twenty_wrong_tries_are_enough_for_an_hour() {
        let (mut wrong, mut since) = (0, None);
        for tried in 0..20 {
            assert!(!is_worn_out(wrong, since, at(1_000 + tried)));
            let (more, first) = one_more(wrong, since, at(1_000 + tried));
            (wrong, since) = (more, Some(first));
        }

        assert!(is_worn_out(wrong, since, at(1_020)) && is_worn_out(wrong, since, at(4_599)));
        assert!(!is_worn_out(wrong, since, at(4_600)));
        assert_eq!(one_more(wrong, since, at(4_600)), (1, at(4_600)));
    }
}
