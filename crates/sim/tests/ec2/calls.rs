//! What every call of the EC2 simulator passes: who may call, what it knows, how much it gives and how often.

use chrono::TimeDelta;
use postern_sim::ec2::{ActionClass, Bucket, Ec2Options, Ec2Sim, Throttling};

use crate::raw::{Answer, REGION, VERSION, authorization, start, start_strictly, stepped};
use crate::security_groups::{tcp, with};

#[tokio::test]
async fn the_caller_must_be_known_and_the_scope_must_fit() {
    let raw = start(Ec2Options::default()).await;
    let key = Ec2Sim::ACCESS_KEY_ID;
    let (ec2, sts) = (VERSION, "2011-06-15");
    for (authorization, version, status, code) in [
        (None, ec2, 403, "MissingAuthenticationToken"),
        (Some("Basic abc".to_owned()), ec2, 400, "IncompleteSignature"),
        (
            Some(authorization("AKIANOBODY", REGION, "ec2")),
            ec2,
            401,
            "AuthFailure",
        ),
        (
            Some(authorization("AKIANOBODY", REGION, "sts")),
            sts,
            403,
            "InvalidClientTokenId",
        ),
        (
            Some(authorization(key, "mars-north-1", "ec2")),
            ec2,
            401,
            "AuthFailure",
        ),
        (Some(authorization(key, REGION, "s3")), ec2, 401, "AuthFailure"),
        (
            Some(authorization(key, REGION, "ec2")),
            "1999-01-01",
            400,
            "NoSuchVersion",
        ),
    ] {
        let answer = raw
            .send(authorization.as_deref(), version, "DescribeVpcs", &[])
            .await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{authorization:?} {version}"
        );
    }
    let refused = raw
        .send(
            Some(&authorization("AKIANOBODY", REGION, "sts")),
            sts,
            "GetCallerIdentity",
            &[],
        )
        .await;
    assert!(refused.body.contains("<ErrorResponse xmlns="), "{}", refused.body);
}

#[tokio::test]
async fn an_unsigned_request_is_refused_where_signatures_are_verified() {
    let raw = start_strictly(Ec2Options::default()).await;
    assert_eq!(raw.call("DescribeVpcs", &[]).await.code(), "AuthFailure");
}

#[tokio::test]
async fn unknown_actions_and_parameters_are_refused() {
    let raw = start(Ec2Options::default()).await;
    assert_eq!(raw.call("MakeCoffee", &[]).await.code(), "InvalidAction");
    assert_eq!(
        raw.call("DescribeVpcs", &[("Colour", "red")]).await.code(),
        "UnknownParameter"
    );
    assert_eq!(
        raw.call("CreateSecurityGroup", &[("GroupName", "x")])
            .await
            .code(),
        "MissingParameter"
    );
    let dry = raw.call("DescribeVpcs", &[("DryRun", "true")]).await;
    assert_eq!((dry.status, dry.code()), (412, "DryRunOperation"));
}

#[tokio::test]
async fn listings_come_in_pages_of_five_to_a_thousand() {
    let raw = start(Ec2Options::default()).await;
    let (vpc, _, _) = raw.network();
    for n in 0..10 {
        raw.fleet().group(&vpc, &format!("g{n}"), &[]).unwrap();
    }
    let filter = [("Filter.1.Name", "vpc-id"), ("Filter.1.Value.1", vpc.as_str())];
    let mut token: Option<String> = None;
    let mut sizes = Vec::new();
    loop {
        let mut parameters = filter.to_vec();
        parameters.push(("MaxResults", "5"));
        if let Some(token) = &token {
            parameters.push(("NextToken", token));
        }
        let page = raw.call("DescribeSecurityGroups", &parameters).await;
        sizes.push(page.count("<groupName>"));
        token = page.first("nextToken").map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [5, 5, 2]);
    assert_eq!(
        raw.call("DescribeInstances", &[("MaxResults", "4")]).await.code(),
        "InvalidParameterValue"
    );
    assert_eq!(
        raw.call("DescribeInstances", &[("MaxResults", "1001")])
            .await
            .code(),
        "InvalidParameterValue"
    );
}

#[tokio::test]
async fn throttled_calls_are_refused_until_tokens_come_back() {
    let throttling = Throttling::documented().with_class(
        ActionClass::ResourceIntensive,
        Bucket {
            capacity: 2.0,
            refill: 1.0,
        },
    );
    let options = Ec2Options {
        throttling: Some(throttling),
        ..Ec2Options::default()
    };
    let (clock, raw) = stepped(options).await;
    let (_, _, group) = raw.network();
    let codes = async |ports: &[&'static str]| {
        let mut codes = Vec::new();
        for port in ports {
            let answer = raw
                .call(
                    "AuthorizeSecurityGroupIngress",
                    &with(&group, tcp(port, "10.0.0.0/8")),
                )
                .await;
            codes.push((answer.status, answer.code().to_owned()));
        }
        codes
    };
    let (done, limited) = (
        (200, "(success)".to_owned()),
        (503, "RequestLimitExceeded".to_owned()),
    );
    assert_eq!(
        codes(&["1", "2", "3"]).await,
        [done.clone(), done.clone(), limited.clone()]
    );
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(codes(&["3", "4"]).await, [done.clone(), limited.clone()]);
    raw.sim.set_throttling(None);
    assert_eq!(
        codes(&["4", "5", "6"]).await,
        [done.clone(), done.clone(), done.clone()]
    );
    let one = Bucket {
        capacity: 1.0,
        refill: 1.0,
    };
    let tight = Throttling::documented().with_class(ActionClass::ResourceIntensive, one);
    raw.sim.set_throttling(Some(tight));
    assert_eq!(codes(&["7", "8"]).await, [done, limited]);
}

#[tokio::test]
async fn roles_are_assumed_only_under_their_trust() {
    let role = |name: &str, external_id: Option<&str>| postern_sim::ec2::Role {
        arn: format!("arn:aws:iam::444455556666:role/{name}"),
        trusted_accounts: vec![Ec2Sim::ACCOUNT.to_owned()],
        external_id: external_id.map(str::to_owned),
    };
    let stranger = postern_sim::ec2::Role {
        trusted_accounts: vec![],
        ..role("stranger", None)
    };
    let roles = vec![role("plain", None), role("guarded", Some("lab-42")), stranger];
    let (clock, raw) = stepped(Ec2Options {
        roles,
        ..Ec2Options::default()
    })
    .await;
    let sts = authorization(Ec2Sim::ACCESS_KEY_ID, REGION, "sts");
    let assume = async |name: &str, external_id: Option<&str>| {
        let arn = format!("arn:aws:iam::444455556666:role/{name}");
        let mut parameters = vec![
            ("RoleArn", arn.as_str()),
            ("RoleSessionName", "test"),
            ("DurationSeconds", "900"),
        ];
        parameters.extend(external_id.map(|id| ("ExternalId", id)));
        raw.send(Some(&sts), "2011-06-15", "AssumeRole", &parameters)
            .await
    };
    for (name, external_id, code) in [
        ("plain", None, "(success)"),
        ("guarded", Some("lab-42"), "(success)"),
        ("guarded", Some("lab-43"), "AccessDenied"),
        ("guarded", None, "AccessDenied"),
        ("stranger", None, "AccessDenied"),
        ("nobody", None, "AccessDenied"),
    ] {
        assert_eq!(
            assume(name, external_id).await.code(),
            code,
            "{name} {external_id:?}"
        );
    }
    let session = assume("plain", None).await;
    let header = authorization(&session.get("AccessKeyId"), REGION, "ec2");
    let token = session.get("SessionToken");
    let call = async || {
        let form = [("Action", "DescribeVpcs"), ("Version", VERSION)];
        let request = raw
            .client
            .post(raw.sim.url())
            .form(&form)
            .header("authorization", &header);
        let response = request
            .header("x-amz-security-token", &token)
            .send()
            .await
            .unwrap();
        Answer::of(response).await
    };
    assert_eq!(call().await.get("ownerId"), "444455556666");
    clock.advance(TimeDelta::seconds(900));
    assert_eq!(call().await.code(), "RequestExpired");
}
