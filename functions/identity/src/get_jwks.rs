//! `get-jwks`: which public keys do access tokens verify with?

use contracts::identity::GetJwks;
use platform::{Cx, Function, Result};
use serde_json::Value;

use crate::keys::Keys;

/// The function.
pub fn function() -> Function {
    Function::query(get_jwks).needs::<Keys>(Keys::load)
}

async fn get_jwks(cx: &mut Cx, _: GetJwks) -> Result<Value> {
    Ok(cx.resource::<Keys>()?.jwks())
}

#[cfg(test)]
mod tests {
    use contracts::identity::{AUDIENCE, Claims, Session, TOKEN_TYPE};
    use jsonwebtoken::{Algorithm, DecodingKey, TokenData, Validation, decode, decode_header, jwk::JwkSet};
    use platform::Role;

    use super::*;
    use crate::{
        fixtures::{App, app, john},
        register,
    };

    async fn session(app: &App) -> Session {
        app.call(&register::function(), &john()).await.unwrap()
    }

    /// What whoever has only the public keys makes of a token.
    fn verify(jwks: &JwkSet, token: &str) -> jsonwebtoken::errors::Result<TokenData<Claims>> {
        let kid = decode_header(token)?.kid.unwrap();
        let key = DecodingKey::from_jwk(jwks.find(&kid).unwrap())?;
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_audience(&[AUDIENCE]);
        rules.set_issuer(&["outcry"]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        decode(token, &key, &rules)
    }

    #[tokio::test]
    async fn a_token_verifies_with_the_published_keys() {
        let app = app().await;
        let Session { token, user, .. } = session(&app).await;
        let published = app.ask(&function(), &GetJwks {}).await.unwrap();
        let jwks: JwkSet = serde_json::from_value(published).unwrap();

        let TokenData { header, claims, .. } = verify(&jwks, &token.0).unwrap();

        assert_eq!((header.alg, header.typ.as_deref()), (Algorithm::EdDSA, Some(TOKEN_TYPE)));
        assert_eq!(header.kid, jwks.keys[0].common.key_id);
        assert_eq!((claims.sub, claims.role), (user.id, Role::User));
        assert_eq!(claims.exp - claims.iat, 600);
        let sessions = sqlx::query_scalar!("select id from sessions").fetch_all(app.pool()).await.unwrap();
        assert_eq!(sessions, [claims.sid]);
    }

    #[tokio::test]
    async fn a_token_that_was_changed_or_that_another_key_signed_does_not_verify() {
        let (ours, theirs) = (app().await, app().await);
        let (token, other) = (session(&ours).await.token.0, session(&theirs).await.token.0);
        let jwks: JwkSet = serde_json::from_value(ours.ask(&function(), &GetJwks {}).await.unwrap()).unwrap();
        let parts = |token: &str| -> [String; 3] {
            token.split('.').map(Into::into).collect::<Vec<_>>().try_into().unwrap()
        };
        let ([header, claims, code], [_, other_claims, other_code]) = (parts(&token), parts(&other));

        assert!(verify(&jwks, &format!("{header}.{claims}.{code}")).is_ok());
        assert!(verify(&jwks, &format!("{header}.{other_claims}.{code}")).is_err());
        assert!(verify(&jwks, &format!("{header}.{other_claims}.{other_code}")).is_err());
    }

    #[tokio::test]
    async fn only_the_public_part_is_published() {
        let published = app().await.ask(&function(), &GetJwks {}).await.unwrap();

        assert!(published["keys"][0]["d"].is_null(), "{published}");
    }
}
