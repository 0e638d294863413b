use super::*;

const GOOD: &str = "spiffe://cluster.local/ns/app/sa/echo";

#[test]
fn a_good_uri_gives_its_parts_and_comes_back_as_it_was() {
    let identity: Identity = GOOD.parse().unwrap();
    assert_eq!(identity.trust_domain(), "cluster.local");
    assert_eq!(identity.namespace(), "app");
    assert_eq!(identity.service_account(), "echo");
    assert_eq!(identity.principal(), "cluster.local/ns/app/sa/echo");
    assert_eq!(identity.to_string(), GOOD);
    assert_eq!(
        identity,
        Identity::new("cluster.local", "app", "echo").unwrap()
    );
    assert_eq!(Identity::try_from(Arc::<str>::from(GOOD)), Ok(identity));
}

#[test]
fn what_is_allowed_in_each_part() {
    for uri in [
        "spiffe://a/ns/b/sa/c",
        "spiffe://my_td-1.example/ns/b/sa/c",
        "spiffe://td/ns/kube-system/sa/Default_Account.v1",
        "spiffe://td/ns/.../sa/..a",
        "spiffe://td/ns/ns/sa/sa",
    ] {
        assert_eq!(uri.parse::<Identity>().unwrap().uri(), uri);
    }
}

#[test]
fn what_is_not_strictly_spiffe_is_refused() {
    use IdentityError::{Part, Scheme, Shape};
    let part = |uri: &str| match uri.parse::<Identity>() {
        Err(Part { part, .. }) => part,
        other => panic!("{uri}: {other:?}"),
    };
    for uri in [
        "",
        "spiffe:/a/ns/b/sa/c",
        "SPIFFE://a/ns/b/sa/c",
        " spiffe://a/ns/b/sa/c",
        "http://a/ns/b/sa/c",
    ] {
        assert_eq!(uri.parse::<Identity>(), Err(Scheme), "{uri}");
    }
    for uri in [
        "spiffe://a",
        "spiffe://a/ns/b/sa",
        "spiffe://a/ns/b/sa/c/",
        "spiffe://a/ns/b/sa/c/d",
        "spiffe://a//ns/b/sa/c",
        "spiffe://a/sa/b/ns/c",
        "spiffe://a/NS/b/sa/c",
        "spiffe://a/ns/b/c/sa/d",
    ] {
        assert_eq!(uri.parse::<Identity>(), Err(Shape), "{uri}");
    }
    for uri in [
        "spiffe:///ns/b/sa/c",
        "spiffe://Cluster.local/ns/b/sa/c",
        "spiffe://a:80/ns/b/sa/c",
        "spiffe://user@a/ns/b/sa/c",
        "spiffe://ä/ns/b/sa/c",
    ] {
        assert_eq!(part(uri), "trust domain", "{uri}");
    }
    for uri in [
        "spiffe://a/ns//sa/c",
        "spiffe://a/ns/%62/sa/c",
        "spiffe://a/ns/./sa/c",
        "spiffe://a/ns/b c/sa/c",
    ] {
        assert_eq!(part(uri), "namespace", "{uri}");
    }
    for uri in [
        "spiffe://a/ns/b/sa/",
        "spiffe://a/ns/b/sa/..",
        "spiffe://a/ns/b/sa/c?x=1",
        "spiffe://a/ns/b/sa/c#f",
        "spiffe://a/ns/b/sa/c\0",
        "spiffe://a/ns/b/sa/*",
    ] {
        assert_eq!(part(uri), "service account", "{uri}");
    }
}

#[test]
fn lengths_are_bounded() {
    let long = "x".repeat(255);
    assert!(Identity::new(&long, "b", "c").is_ok());
    assert!(Identity::new(&format!("{long}x"), "b", "c").is_err());
    let fits = MAX_URI - "spiffe://a/ns/b/sa/".len();
    assert_eq!(
        Identity::new("a", "b", &"x".repeat(fits))
            .unwrap()
            .uri()
            .len(),
        MAX_URI
    );
    assert_eq!(
        Identity::new("a", "b", &"x".repeat(fits + 1)),
        Err(IdentityError::TooLong {
            length: MAX_URI + 1
        })
    );
    let hostile = format!("spiffe://a/ns/b/sa/{}", "%".repeat(1000));
    assert!(hostile.parse::<Identity>().unwrap_err().to_string().len() < 200);
}

#[test]
fn refusals_say_what_is_wrong() {
    let text = |uri: &str| uri.parse::<Identity>().unwrap_err().to_string();
    assert_eq!(text("x"), "does not start with spiffe://");
    assert_eq!(
        text("spiffe://a"),
        "is not of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT"
    );
    assert_eq!(
        text("spiffe://a/ns//sa/c"),
        r#"namespace "" is not allowed: it is empty"#
    );
}

proptest::proptest! {
    #[test]
    fn any_text_is_refused_or_comes_back_as_it_was(uri in "(spiffe://)?[a-z/.%]{0,8}(/ns/[a-z./%]{0,4}/sa/[a-z./%]{0,4})?.{0,3}") {
        if let Ok(identity) = uri.parse::<Identity>() {
            proptest::prop_assert_eq!(identity.uri(), &uri);
            let again = Identity::new(identity.trust_domain(), identity.namespace(), identity.service_account());
            proptest::prop_assert_eq!(again, Ok(identity));
        }
    }
}
