//! The whole HTTP surface: each line names the paths, and the message they send.
//!
//! A route has no code of its own, so it cannot grow logic. What is not said here is said once in `exchange`.

use contracts::{
    auctions::{
        BuyNow, CancelItem, CloseItem, CreateItem, DeleteItem, GetItem, ListBids, ListMyBids, ListMyItems,
        ListWatchlist, PlaceBid, RelistItem, UnwatchItem, UpdateItem, WatchItem,
    },
    catalog::{
        CreateCategory, CreateProduct, DeleteCategory, DeleteProduct, GetCategory, GetProduct,
        ListCategories, ListItems, ListProducts, UpdateCategory, UpdateProduct,
    },
    identity::{
        Challenge2fa, ChangePassword, DeleteUser, Disable2fa, Enable2fa, EndSession, GetJwks, GetMe, GetUser,
        ListSessions, ListUsers, Login, Logout, LogoutAll, Refresh, Register, RenewRecoveryCodes,
        RequestPasswordReset, ResetPassword, UpdateUser, Verify2fa,
    },
    stats::{GetLeaderboard, GetUserStats},
};

use crate::exchange::{Line, ask, outcome, send, watch, watch_all};

/// How many products are in a category changes without its version.
const CATEGORY_TAG: &[&str] = &["version", "product_count"];

/// All lines.
#[rustfmt::skip]
pub(crate) fn table() -> Vec<Line> {
    vec![
        // identity
        send::<Register>(["/identity/register", "/register", "/api/v1/auth/register", "/api/v1/users/register"]).created(),
        send::<Login>(["/identity/login", "/login", "/api/v1/auth/login", "/api/v1/users/login"]).may_ask_more(),
        ask::<GetMe>(["/identity/me", "/me", "/api/v1/users/me"]).bearer(),
        ask::<GetJwks>(["/.well-known/jwks.json"]),
        send::<Refresh>(["/identity/refresh"]),
        send::<Logout>(["/identity/logout"]).bearer().empty(),
        send::<LogoutAll>(["/identity/logout-all"]).bearer().empty(),
        ask::<ListSessions>(["/identity/sessions"]).bearer(),
        send::<EndSession>(["/identity/sessions/{session_id}"]).delete().bearer().empty(),
        send::<ChangePassword>(["/identity/password"]).put().bearer().empty(),
        send::<RequestPasswordReset>(["/identity/password/reset"]).accepted(),
        send::<ResetPassword>(["/identity/password/reset/confirm"]).empty(),
        send::<Enable2fa>(["/identity/2fa/enable", "/2fa/enable"]).bearer(),
        send::<Verify2fa>(["/identity/2fa/verify", "/2fa/verify"]).bearer(),
        send::<Challenge2fa>(["/identity/2fa/challenge", "/2fa/challenge"]),
        send::<Disable2fa>(["/identity/2fa/disable", "/2fa/disable"]).bearer().empty(),
        send::<RenewRecoveryCodes>(["/identity/2fa/recovery-codes", "/2fa/recovery-codes"]).bearer(),
        ask::<ListUsers>(["/api/v1/users"]).bearer(),
        ask::<GetUser>(["/api/v1/users/{user_id}"]).bearer().versioned(),
        send::<UpdateUser>(["/api/v1/users/{user_id}"]).put().bearer(),
        send::<DeleteUser>(["/api/v1/users/{user_id}"]).delete().bearer().empty(),
        // items and bids
        send::<CreateItem>(["/api/v1/items"]).bearer().created(),
        ask::<ListItems>(["/api/v1/items"]),
        ask::<GetItem>(["/api/v1/items/{item_id}"]).versioned(),
        send::<PlaceBid>(["/api/v1/items/{item_id}/bids"]).bearer().created(),
        ask::<ListBids>(["/api/v1/items/{item_id}/bids"]),
        send::<BuyNow>(["/api/v1/items/{item_id}/buy-now"]).bearer().created(),
        send::<WatchItem>(["/api/v1/items/{item_id}/watch"]).put().bearer().empty(),
        ask::<ListWatchlist>(["/api/v1/users/me/watchlist"]).bearer(),
        ask::<ListMyItems>(["/api/v1/users/me/items"]).bearer(),
        send::<UnwatchItem>(["/api/v1/items/{item_id}/watch"]).delete().bearer().empty(),
        ask::<ListMyBids>(["/api/v1/users/me/bids"]).bearer(),
        send::<UpdateItem>(["/api/v1/items/{item_id}"]).put().bearer().conditional().versioned(),
        send::<DeleteItem>(["/api/v1/items/{item_id}"]).delete().bearer().conditional().empty(),
        send::<CancelItem>(["/api/v1/items/{item_id}/cancel"]).bearer(),
        send::<RelistItem>(["/api/v1/items/{item_id}/relist"]).bearer().created(),
        send::<CloseItem>(["/api/v1/items/{item_id}/close"]).bearer(),
        watch(["/api/v1/items/{item_id}/events"]),
        watch_all(["/api/v1/items/events"]),
        // categories and products
        send::<CreateCategory>(["/api/v1/categories"]).bearer().created(),
        ask::<ListCategories>(["/api/v1/categories"]),
        ask::<GetCategory>(["/api/v1/categories/{category_id}"]).versioned_by(CATEGORY_TAG),
        send::<UpdateCategory>(["/api/v1/categories/{category_id}"]).put().bearer().conditional().versioned_by(CATEGORY_TAG),
        send::<DeleteCategory>(["/api/v1/categories/{category_id}"]).delete().bearer().conditional().empty(),
        send::<CreateProduct>(["/api/v1/products"]).bearer().created(),
        ask::<ListProducts>(["/api/v1/products"]),
        ask::<GetProduct>(["/api/v1/products/{product_id}"]).versioned(),
        send::<UpdateProduct>(["/api/v1/products/{product_id}"]).put().bearer().conditional().versioned(),
        send::<DeleteProduct>(["/api/v1/products/{product_id}"]).delete().bearer().conditional().empty(),
        // stats
        ask::<GetUserStats>(["/api/v1/users/{user_id}/stats"]),
        ask::<GetUserStats>(["/api/v1/users/me/stats"]).bearer().without(&["user_id"]),
        ask::<GetLeaderboard>(["/api/v1/leaderboard"]),
        // whatever was answered 202
        outcome(["/api/v1/commands/{command_id}"]),
    ]
}
