//! A visitor of a platform: its public API over HTTP, as the demonstration, the seed, the bench and the checks use it.

use anyhow::{Context, ensure};
use contracts::{
    ItemId, Page, UserId,
    auctions::{Bid, Item},
    identity::Session,
    stats::UserStats,
};
use reqwest::{Client, Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The public API.
pub(crate) struct Api {
    http: Client,
    url: String,
}

impl Api {
    pub(crate) fn at(url: &str) -> anyhow::Result<Self> {
        let http = Client::builder().no_proxy().build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned() })
    }

    /// One request; whatever comes back.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        session: Option<&Session>,
        key: Option<&str>,
        body: Option<Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(session) = session {
            request = request.bearer_auth(&session.token.0);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = &body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("reach the platform at {}", self.url))?;
        let status = response.status();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self.call(Method::GET, path, None, None, None).await?;
        expect(StatusCode::OK, path, answer)
    }

    /// A new account with a session.
    pub(crate) async fn register(&self, person: Value) -> anyhow::Result<Session> {
        let path = "/identity/register";
        expect(StatusCode::CREATED, path, self.call(Method::POST, path, None, None, Some(person)).await?)
    }

    /// A new session of an account that is there.
    pub(crate) async fn login(&self, email: &str, password: &str) -> anyhow::Result<Session> {
        let (path, person) = ("/identity/login", json!({ "email": email, "password": password }));
        expect(StatusCode::OK, path, self.call(Method::POST, path, None, None, Some(person)).await?)
    }

    pub(crate) async fn offer(&self, seller: &Session, item: Value) -> anyhow::Result<Item> {
        let path = "/api/v1/items";
        expect(
            StatusCode::CREATED,
            path,
            self.call(Method::POST, path, Some(seller), None, Some(item)).await?,
        )
    }

    pub(crate) async fn bid(
        &self,
        bidder: &Session,
        item: ItemId,
        amount: &str,
        key: &str,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let path = format!("/api/v1/items/{item}/bids");
        self.call(Method::POST, &path, Some(bidder), Some(key), Some(json!({ "amount": amount }))).await
    }

    pub(crate) async fn item(&self, item: ItemId) -> anyhow::Result<Item> {
        self.get(&format!("/api/v1/items/{item}")).await
    }

    /// All accepted bids, the first one first.
    pub(crate) async fn bids(&self, item: ItemId) -> anyhow::Result<Vec<Bid>> {
        let mut bids: Vec<Bid> = self.all(&format!("/api/v1/items/{item}/bids?")).await?;
        bids.reverse();
        Ok(bids)
    }

    /// Every member of a collection, page by page. The path ends with `?` or `&`.
    pub(crate) async fn all<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        self.all_of(None, path).await
    }

    /// The same, of a collection that is somebody's own.
    pub(crate) async fn all_of<T: DeserializeOwned>(
        &self,
        session: Option<&Session>,
        path: &str,
    ) -> anyhow::Result<Vec<T>> {
        let mut members = Vec::new();
        let mut cursor = String::new();
        loop {
            let part = format!("{path}limit=100{cursor}");
            let answer = self.call(Method::GET, &part, session, None, None).await?;
            let page: Page<T> = expect(StatusCode::OK, &part, answer)?;
            members.extend(page.data);
            match page.page_info.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(members),
            }
        }
    }

    /// The live view of an item, as it comes.
    pub(crate) async fn live(&self, item: ItemId) -> anyhow::Result<Response> {
        self.open(&format!("/api/v1/items/{item}/events")).await
    }

    /// What does not end: an answer as it comes.
    pub(crate) async fn open(&self, path: &str) -> anyhow::Result<Response> {
        let request = self.http.get(format!("{}{path}", self.url));
        request.send().await.with_context(|| format!("reach the platform at {}", self.url))
    }

    pub(crate) async fn stats(&self, user: UserId) -> anyhow::Result<UserStats> {
        self.get(&format!("/api/v1/users/{user}/stats")).await
    }
}

/// What was answered, when the status is the one that was hoped for.
pub(crate) fn expect<T: DeserializeOwned>(
    status: StatusCode,
    path: &str,
    (given, body): (StatusCode, Value),
) -> anyhow::Result<T> {
    ensure!(given == status, "{path} was answered with {given}: {body}");
    serde_json::from_value(body).with_context(|| format!("read the answer of {path}"))
}
