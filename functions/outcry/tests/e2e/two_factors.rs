//! A second factor as a person has it: a QR code is scanned, codes are typed, the phone is lost.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use totp_rs::Totp;

use crate::{SHARED, Seen, Visitor, story};

/// Seconds of a step.
const STEP: u64 = 30;
/// Seconds that are enough for what a story does within a step.
const ENOUGH: u64 = 12;

/// An authenticator.
pub(crate) struct Phone(Totp);

impl Phone {
    /// Reads a QR code from its image, as a camera does.
    pub(crate) fn scan(svg: &str) -> (Self, String) {
        let (_, size) = svg.split_once("viewBox=\"0 0 ").unwrap();
        let (width, height) = size.split_once('"').unwrap().0.split_once(' ').unwrap();
        let (width, height): (usize, usize) = (width.parse().unwrap(), height.parse().unwrap());
        let (_, drawn) = svg.split_once(" d=\"").unwrap();
        let mut dark = vec![false; width * height];
        // Each is `M<left> <top>h<width>v<height>H<left>V<top>`.
        for drawn in drawn.split_once('"').unwrap().0.split('M').skip(1) {
            let numbers: Vec<usize> = drawn
                .split(|c: char| !c.is_ascii_digit())
                .filter(|number| !number.is_empty())
                .map(|number| number.parse().unwrap())
                .collect();
            let [left, top, wide, high, ..] = numbers[..] else { panic!("not drawn as expected: {drawn}") };
            for y in top..top + high {
                dark[y * width + left..][..wide].fill(true);
            }
        }
        let shade = |x, y| if dark[y * width + x] { 0 } else { 255 };
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, shade);
        let found = image.detect_grids();
        let (_, url) = found.first().unwrap().decode().unwrap();
        (Self(Totp::from_url(&url).unwrap()), url)
    }

    /// What it showed so many steps ago.
    pub(crate) fn code(&self, steps_ago: u64) -> String {
        self.0.generate(now() - steps_ago * STEP).to_string()
    }

    /// What it does not show about now.
    fn wrong_code(&self) -> String {
        let shown = [self.code(0), self.code(1)];
        let mut others = (0..3).map(|n| format!("{n:06}"));
        others.find(|code| !shown.contains(code)).unwrap()
    }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Waits for a step that is going to last for a while.
pub(crate) async fn settle() {
    let left = STEP - now() % STEP;
    if left < ENOUGH {
        tokio::time::sleep(Duration::from_secs(left)).await;
    }
}

fn text(body: &Value, member: &str) -> String {
    body[member].as_str().unwrap().to_owned()
}

struct Person {
    visitor: Visitor,
    email: String,
}

impl Person {
    async fn new() -> Self {
        let visitor = Visitor::new(&SHARED, "careful").await;
        let email = text(&visitor.get("/me").await.body, "email");
        Self { visitor, email }
    }

    async fn log_in(&self) -> Seen {
        let credentials = json!({ "email": self.email, "password": "secret123" });
        Visitor::of(&SHARED).post("/login", credentials).await
    }

    async fn answer(&self, challenge: &str, code: &str) -> Seen {
        let told = json!({ "challenge": challenge, "code": code });
        Visitor::of(&SHARED).post("/identity/2fa/challenge", told).await
    }

    /// Logs in with the password and this code.
    async fn enter(&self, code: &str) -> Seen {
        let asked = self.log_in().await;
        assert_eq!(asked.status, 202, "{}", asked.body);
        self.answer(&text(&asked.body, "challenge"), code).await
    }

    /// What a token opens.
    async fn status(&self, token: &str) -> u16 {
        let mut visitor = Visitor::of(&SHARED);
        visitor.token = Some(token.to_owned());
        visitor.get("/me").await.status
    }

    async fn enrol(&self) -> (Phone, Vec<String>) {
        settle().await;
        let begun = self.visitor.post("/identity/2fa/enable", json!({})).await;
        assert_eq!(begun.status, 200, "{}", begun.body);
        assert_eq!(begun.headers["cache-control"], "no-store");
        let (phone, url) = Phone::scan(&text(&begun.body, "qr_svg"));
        assert_eq!(url, text(&begun.body, "otpauth_url"));
        assert!(url.contains(&format!("secret={}", text(&begun.body, "secret"))), "{url}");
        assert_eq!(self.log_in().await.status, 200, "what was only begun asks for nothing");
        let wrong = self.visitor.post("/2fa/verify", json!({ "code": phone.wrong_code() })).await;
        assert_eq!((wrong.status, wrong.code()), (403, "FORBIDDEN"));
        let done = self.visitor.post("/identity/2fa/verify", json!({ "code": phone.code(1) })).await;
        assert_eq!(done.status, 200, "{}", done.body);
        let codes: Vec<String> = serde_json::from_value(done.body["recovery_codes"].clone()).unwrap();
        (phone, codes)
    }
}

#[test]
fn an_authenticator_is_enrolled_by_its_qr_code_and_then_a_password_opens_nothing() {
    story(async {
        let ann = Person::new().await;

        let (phone, codes) = ann.enrol().await;

        assert_eq!(codes.len(), 10);
        assert_eq!(ann.visitor.get("/me").await.body["two_factor_enabled"], true);
        // S-08: nothing but a challenge.
        let asked = ann.log_in().await;
        assert_eq!(asked.status, 202);
        let members: Vec<&str> = asked.body.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((members, &asked.body["expires_in"]), (vec!["challenge", "expires_in"], &json!(300)));
        assert_eq!(asked.headers["cache-control"], "no-store");
        assert!(!asked.headers.contains_key("set-cookie"));
        let challenge = text(&asked.body, "challenge");
        // S-07: it opens nothing else, and nothing else is one.
        assert_eq!(ann.status(&challenge).await, 401);
        let code = phone.code(0);
        let token = ann.visitor.token.clone().unwrap();
        let (wrong, other) =
            (ann.answer(&challenge, &phone.wrong_code()).await, ann.answer(&token, &code).await);
        assert_eq!((wrong.status, wrong.code()), (401, "UNAUTHORIZED"));
        assert!(wrong.headers.contains_key("www-authenticate"));
        assert_eq!((other.status, &other.body["error"]["message"]), (401, &wrong.body["error"]["message"]));

        let session = ann.answer(&challenge, &code).await;

        assert_eq!(session.status, 200, "{}", session.body);
        assert_eq!(session.body["user"]["two_factor_enabled"], true);
        assert_eq!(ann.status(&text(&session.body, "token")).await, 200);
        // S-09: the code was used, and so was the challenge.
        assert_eq!(ann.enter(&code).await.status, 401);
        assert_eq!(ann.answer(&challenge, &codes[0]).await.status, 401);
    });
}

#[test]
fn who_lost_the_phone_comes_in_with_recovery_codes_and_is_rid_of_it() {
    story(async {
        let bob = Person::new().await;
        let (phone, codes) = bob.enrol().await;

        // S-11
        assert_eq!(bob.enter(&codes[0]).await.status, 200);
        assert_eq!(bob.enter(&codes[0]).await.status, 401);
        // S-12: a young login is not enough any more.
        let anew = bob.visitor.post("/identity/2fa/enable", json!({})).await;
        assert_eq!((anew.status, anew.code()), (403, "FORBIDDEN"));
        let proof = |code: &str| json!({ "password": "secret123", "code": code });
        let renewed = bob.visitor.post("/2fa/recovery-codes", proof(&codes[1])).await;
        assert_eq!(renewed.status, 200, "{}", renewed.body);
        assert_eq!(bob.enter(&codes[2]).await.status, 401, "void");
        let code = renewed.body["recovery_codes"][0].as_str().unwrap().to_owned();
        for (body, status) in [
            (json!({ "password": "secret123" }), 400),
            (json!({ "code": code }), 400),
            (json!({ "password": "secret124", "code": code }), 403),
            (proof(&phone.wrong_code()), 403),
            (proof(&code), 204),
            (proof(&code), 409),
        ] {
            assert_eq!(
                bob.visitor.post("/identity/2fa/disable", body.clone()).await.status,
                status,
                "{body}"
            );
        }
        assert_eq!(bob.log_in().await.status, 200);
        assert_eq!(bob.visitor.get("/me").await.body["two_factor_enabled"], false);
    });
}

#[test]
fn five_wrong_codes_end_a_challenge() {
    story(async {
        let cid = Person::new().await;
        let (phone, codes) = cid.enrol().await;
        let challenge = text(&cid.log_in().await.body, "challenge");

        for _ in 0..5 {
            assert_eq!(cid.answer(&challenge, &phone.wrong_code()).await.status, 401);
        }

        // S-10
        assert_eq!(cid.answer(&challenge, &codes[0]).await.status, 401);
        assert_eq!(cid.enter(&codes[0]).await.status, 200);
    });
}
