use jsonwebtoken::jwk::JwkSet;
use proptest::prelude::*;

use super::*;

fn options() -> TokenOptions {
    TokenOptions {
        jwks: "unused".into(),
        jwks_ca_file: None,
        issuer: "https://issuer".into(),
        audience: "cellway".into(),
        algorithms: vec!["EdDSA".into()],
        claim: "tenant".into(),
        required: true,
        leeway: Duration::ZERO,
        refresh_interval: Duration::from_secs(300),
        // There was a look at the keys just before: nobody waits for another.
        refresh_min_interval: Duration::from_secs(300),
        cached_max: 4,
    }
}

struct Issuer {
    key: jsonwebtoken::EncodingKey,
    set: JwkSet,
}

impl Issuer {
    fn new(id: &str) -> Self {
        use base64::Engine as _;
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        let jwk = serde_json::json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": id, "x": x });
        let set = serde_json::from_value(serde_json::json!({ "keys": [jwk] })).unwrap();
        Self { key: jsonwebtoken::EncodingKey::from_ed_der(&pair.serialize_der()), set }
    }

    fn sign(&self, id: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut header = jsonwebtoken::Header::new(Algorithm::EdDSA);
        header.kid = Some(id.into());
        let mut claims = serde_json::json!({
            "iss": "https://issuer", "aud": "cellway", "exp": now() + 600, "tenant": "t-1",
        });
        change(&mut claims);
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }
}

#[tokio::test]
async fn a_set_without_a_key_that_verifies_leaves_the_last_good_ones() {
    let issuer = Issuer::new("k-1");
    let (verifier, keys) = verifier(&issuer);
    for set in [r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","kid":"k-1","k":"AAAA"}]}"#] {
        keys::testing::install(&keys, serde_json::from_str(set).unwrap());
        assert_eq!(verdict(&verifier, &issuer.sign("k-1", |_| {})).await, Ok("t-1".into()), "{set}");
    }
}

fn verifier(issuer: &Issuer) -> (Verifier, Arc<Keys>) {
    let options = options();
    let keys = Keys::new(&options);
    keys::testing::install(&keys, issuer.set.clone());
    (Verifier::new(TokenRules::new(&options).unwrap(), Arc::clone(&keys)), keys)
}

async fn verdict(verifier: &Verifier, token: &str) -> Result<String, Code> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    match verifier.tenant_of(&headers).await {
        Ok(tenant) => Ok(tenant.unwrap().to_string()),
        Err(refusal) => Err(refusal.code),
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_said_in_words_and_not_in_names_of_a_library() {
    let issuer = Issuer::new("k");
    let (verifier, _keys) = verifier(&issuer);
    let signed = |change: fn(&mut serde_json::Value)| issuer.sign("k", change);
    let good = signed(|_| {});
    let (head, signature) = (good.split('.').next().unwrap(), good.rsplit('.').next().unwrap());
    for (token, text) in [
        (signed(|c| c["exp"] = (now() - 10).into()), "it has expired (claim \"exp\")"),
        (signed(|c| c["nbf"] = (now() + 100).into()), "not valid yet"),
        (signed(|c| c["iss"] = "https://other".into()), "of another issuer"),
        (signed(|c| c["aud"] = "other".into()), "for another audience"),
        (signed(|c| drop(c.as_object_mut().unwrap().remove("exp"))), "it has no claim \"exp\""),
        (Issuer::new("k").sign("k", |_| {}), "its signature is not by the key"),
        (format!("{head}.e30.{signature}"), "its signature is not by the key"),
        ("a.b.c".into(), "its header is not JSON"),
        ("nothing".into(), "its header is not JSON"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        let said = verifier.tenant_of(&headers).await.unwrap_err().detail;
        assert!(said.starts_with("the token is not accepted: ") && said.contains(text), "{text}: {said}");
        for name in ["Invalid", "Signature", "Error", "column", "symbol"] {
            assert!(!said.contains(name), "{said}");
        }
    }
}

#[tokio::test]
async fn every_claim_has_to_be_right() {
    let issuer = Issuer::new("k");
    let (verifier, _keys) = verifier(&issuer);
    let signed = |change: fn(&mut serde_json::Value)| issuer.sign("k", change);
    assert_eq!(verdict(&verifier, &signed(|_| {})).await, Ok("t-1".into()));
    type Change = fn(&mut serde_json::Value);
    let wrong: [(&str, Change); 10] = [
        ("another issuer", |c| c["iss"] = "https://other".into()),
        ("no issuer", |c| drop(c.as_object_mut().unwrap().remove("iss"))),
        ("another audience", |c| c["aud"] = "other".into()),
        ("expired", |c| c["exp"] = (now() - 10).into()),
        ("not yet", |c| c["nbf"] = (now() + 100).into()),
        ("no expiry", |c| drop(c.as_object_mut().unwrap().remove("exp"))),
        ("no audience", |c| drop(c.as_object_mut().unwrap().remove("aud"))),
        ("no tenant", |c| drop(c.as_object_mut().unwrap().remove("tenant"))),
        ("a number for a tenant", |c| c["tenant"] = 1.into()),
        ("no name of a tenant", |c| c["tenant"] = "../x".into()),
    ];
    for (what, change) in wrong {
        assert_eq!(verdict(&verifier, &signed(change)).await, Err(Code::TokenInvalid), "{what}");
    }
}

#[tokio::test]
async fn a_token_does_not_choose_how_it_is_verified() {
    use base64::Engine as _;
    let issuer = Issuer::new("k");
    let (verifier, _keys) = verifier(&issuer);
    let encoded = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let good = issuer.sign("k", |_| {});
    let claims = good.split('.').nth(1).unwrap();
    for header in [
        r#"{"alg":"none","kid":"k"}"#,
        r#"{"alg":"HS256","kid":"k"}"#,
        r#"{"alg":"RS256","kid":"k"}"#,
        r#"{"alg":"ES256","kid":"k"}"#,
    ] {
        for signature in ["", "AAAA", good.split('.').nth(2).unwrap()] {
            let token = format!("{}.{claims}.{signature}", encoded(header));
            assert_eq!(verdict(&verifier, &token).await, Err(Code::TokenInvalid), "{header} {signature}");
        }
    }
    let stranger = Issuer::new("k");
    assert_eq!(
        verdict(&verifier, &stranger.sign("k", |_| {})).await,
        Err(Code::TokenInvalid),
        "another's signature"
    );
}

#[tokio::test]
async fn a_remembered_token_ends_with_its_time_and_with_its_key() {
    let issuer = Issuer::new("k");
    let (verifier, keys) = verifier(&issuer);
    let token = issuer.sign("k", |_| {});
    assert_eq!(verdict(&verifier, &token).await, Ok("t-1".into()));
    let digest = *blake3::hash(token.as_bytes()).as_bytes();
    assert!(verifier.recall(&digest, now()).is_some());
    assert!(verifier.recall(&digest, now() + 601).is_none(), "expired");
    keys::testing::install(&keys, issuer.set.clone());
    assert!(verifier.recall(&digest, now()).is_some(), "the key is as it was");
    keys::testing::install(&keys, Issuer::new("k").set);
    assert!(verifier.recall(&digest, now()).is_none(), "another key of that name");
}

#[tokio::test]
async fn only_so_many_tokens_are_remembered() {
    let issuer = Issuer::new("k");
    let (verifier, _keys) = verifier(&issuer);
    for at in 0..20_u64 {
        let token = issuer.sign("k", |claims| claims["jti"] = at.into());
        assert_eq!(verdict(&verifier, &token).await, Ok("t-1".into()));
    }
    let remembered = verifier.remembered.borrow();
    assert!(remembered.young.len() + remembered.old.len() <= 4);
}

#[test]
fn options_that_make_no_sense_are_named() {
    type Breaks = fn(&mut TokenOptions);
    let broken: [(&str, Breaks); 5] = [
        ("tenant.token.algorithms", |o| o.algorithms = vec!["HS256".into()]),
        ("tenant.token.algorithms", |o| o.algorithms = vec!["none".into()]),
        ("tenant.token.algorithms", |o| o.algorithms.clear()),
        ("tenant.token.issuer", |o| o.issuer.clear()),
        ("tenant.token.jwks-ca-file", |o| o.jwks = "https://issuer/jwks".into()),
    ];
    for (option, breaks) in broken {
        let mut options = options();
        breaks(&mut options);
        assert_eq!(TokenRules::new(&options).unwrap_err().0, option);
    }
}

proptest! {
    #[test]
    fn no_token_makes_it_panic_and_none_is_believed(token in "[\\x20-\\x7e]{0,400}") {
        let issuer = Issuer::new("k");
        let (verifier, _keys) = verifier(&issuer);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        prop_assert_eq!(runtime.block_on(verdict(&verifier, &token)), Err(Code::TokenInvalid));
    }

    #[test]
    fn no_flipped_bit_is_believed(at in 0_usize..10_000, bit in 0_u8..7) {
        let issuer = Issuer::new("k");
        let (verifier, _keys) = verifier(&issuer);
        let mut token = issuer.sign("k", |_| {}).into_bytes();
        let at = at % token.len();
        token[at] ^= 1 << bit;
        if let Ok(token) = String::from_utf8(token)
            && token.bytes().all(|byte| byte.is_ascii_graphic())
            // The last characters of base64 may carry bits that mean nothing.
            && at + 1 < token.len()
        {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            prop_assert!(runtime.block_on(verdict(&verifier, &token)).is_err());
        }
    }
}

#[test]
fn a_file_of_keys_is_checked_and_what_is_wrong_with_it_is_said_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let options = TokenOptions { jwks: path.to_str().unwrap().into(), ..options() };
    let said = |text: &str| {
        std::fs::write(&path, text).unwrap();
        check(&options).map_err(|error| {
            assert_eq!(error.code(), "JWKS_INVALID");
            assert!(error.to_string().contains("keys.json"), "{error}");
            error.to_string()
        })
    };
    assert_eq!(said(&serde_json::to_string(&Issuer::new("a").set).unwrap()), Ok(()));
    let broken = said("{ \"keys\": [\n  { \"kty\": \"OKP\", }\n] }").unwrap_err();
    assert!(broken.contains("line 2 column"), "{broken}");
    assert!(said("{\"keys\":[]}").unwrap_err().contains("no key"));
    let weak = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k","alg":"ES256","x":"AA","y":"*"}]}"#;
    assert!(said(weak).unwrap_err().contains("key 1 (kid \"k\")"), "{}", said(weak).unwrap_err());
    for (keys, wrong) in [
        (r#"{"kty":"OKP","crv":"Ed25519","kid":"k","x":"AA"}"#, "key 1 (kid \"k\")"),
        (r#"{"kty":"oct","kid":"k","k":"AAAA"}"#, "key 1 (kid \"k\")"),
        (r#"{"kty":"RSA","kid":"k","alg":"RS256","n":"AQAB","e":"AQAB"}"#, "accepts (EdDSA)"),
        (r#"{"kty":"NEW","kid":"k"}"#, "no key in it that verifies"),
    ] {
        let said = said(&format!("{{\"keys\":[{keys}]}}")).unwrap_err();
        assert!(said.contains(wrong), "{said}");
    }
    let mut beside = serde_json::to_value(Issuer::new("a").set).unwrap();
    beside["keys"].as_array_mut().unwrap().push(serde_json::json!({ "kty": "NEW", "kid": "n" }));
    assert_eq!(said(&beside.to_string()), Ok(()), "a kind that nobody knows does no harm");
    std::fs::remove_file(&path).unwrap();
    assert!(check(&options).unwrap_err().to_string().contains("cannot read it"));
    let remote = TokenOptions { jwks: "http://issuer.invalid/keys".into(), ..options };
    check(&remote).expect("an address is not asked");
}
