//! How the servers under test are configured.

use postern::demo::{
    fleet::{ACCOUNT, CLIENT_ID, CLIENT_SECRET, EXTERNAL_ID, REGION, ROLE_ARN, SUBSCRIPTION},
    issuer::Issuer,
    people::{AUDIENCE, ISSUER_NAME},
};

use crate::clouds::Clouds;

/// The configuration file; `{port}` stands for the port.
pub(super) fn config(database: &str, issuer: &Issuer, clouds: &Clouds) -> String {
    format!(
        r#"
[installation]
name = "test"
[listen]
address = "127.0.0.1:{{port}}"
[database]
url = "{database}"
max_connections = 8
[[issuers]]
name = "{ISSUER_NAME}"
issuer = "{issuer}"
loopback_http = true
audiences = ["{AUDIENCE}"]
algorithms = ["EdDSA"]
[azure]
subscriptions = ["{SUBSCRIPTION}"]
endpoint = "{arm}"
authority = "{arm}"
change_timeout_seconds = 2
[azure.credential]
kind = "client_secret"
tenant_id = "{tenant}"
client_id = "{CLIENT_ID}"
client_secret = "{CLIENT_SECRET}"
[aws]
regions = ["{REGION}"]
endpoint = "{ec2}"
change_timeout_seconds = 2
describe_lag_seconds = 1
[[aws.accounts]]
id = "{ACCOUNT}"
role_arn = "{ROLE_ARN}"
external_id = "{EXTERNAL_ID}"
[limits]
requests_per_second = 10000
request_burst = 10000
[engine]
lease_seconds = 1
discovery_interval_seconds = 1
drift_interval_seconds = 1
[bootstrap]
owners = ["user:{ISSUER_NAME}/olga"]
[logging]
filter = "info,postern_engine=debug"
"#,
        issuer = issuer.url(),
        arm = clouds.arm.url(),
        tenant = clouds.arm.tenant(),
        ec2 = clouds.ec2.url(),
    )
}
