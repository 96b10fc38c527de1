//! What is trusted of an issuer: its name, audiences, algorithms, keys and what its claims mean.

use jsonwebtoken::Algorithm;
use postern_outbound::is_loopback;
use serde::Deserialize;
use url::Url;

/// A signature algorithm that a token may use. Asymmetric only: with a shared secret, whoever verifies could
/// also mint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum SigningAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    #[serde(rename = "RS384")]
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    #[serde(rename = "RS512")]
    Rs512,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// RSASSA-PSS with SHA-384.
    #[serde(rename = "PS384")]
    Ps384,
    /// RSASSA-PSS with SHA-512.
    #[serde(rename = "PS512")]
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// `EdDSA` on Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl SigningAlgorithm {
    /// The algorithm in the token library's terms.
    pub(crate) const fn algorithm(self) -> Algorithm {
        match self {
            Self::Rs256 => Algorithm::RS256,
            Self::Rs384 => Algorithm::RS384,
            Self::Rs512 => Algorithm::RS512,
            Self::Ps256 => Algorithm::PS256,
            Self::Ps384 => Algorithm::PS384,
            Self::Ps512 => Algorithm::PS512,
            Self::Es256 => Algorithm::ES256,
            Self::Es384 => Algorithm::ES384,
            Self::EdDsa => Algorithm::EdDSA,
        }
    }
}

/// A claim that has one of some values, alone or in a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimMatch {
    /// The claim: a name, or a JSON pointer when it begins with `/`.
    pub claim: String,
    /// The values, any of which will do.
    pub values: Vec<String>,
}

/// Which claims say what. A claim is a name, or a JSON pointer when it begins with `/`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimMapping {
    /// Who it is, unique within the issuer. `sub` unless told otherwise.
    pub subject: String,
    /// A name for people.
    pub name: String,
    /// A list of groups.
    pub groups: String,
    /// Every token of this issuer is a program's.
    pub workloads_only: bool,
    /// What tells a program's token from a person's.
    pub workload_when: Vec<ClaimMatch>,
    /// What proves a second factor.
    pub mfa_when: Vec<ClaimMatch>,
    /// When the person proved who they are, in seconds since 1970; `auth_time` unless told otherwise.
    pub authenticated_at: Option<String>,
    /// Other claims that guardrails may look at, by name. All of them together may hold 256 values, each of 1 KiB.
    pub extra: Vec<String>,
}

impl Default for ClaimMapping {
    fn default() -> Self {
        Self {
            subject: "sub".to_owned(),
            name: "name".to_owned(),
            groups: "groups".to_owned(),
            workloads_only: false,
            workload_when: Vec::new(),
            // RFC 8176, "Authentication Method Reference Values": `mfa`.
            mfa_when: vec![ClaimMatch {
                claim: "amr".to_owned(),
                values: vec!["mfa".to_owned()],
            }],
            // `OpenID` Connect Core 1.0, section 2.
            authenticated_at: Some("auth_time".to_owned()),
            extra: Vec::new(),
        }
    }
}

/// What whoever has to prove more is told to ask their issuer for (RFC 9470, section 3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StepUp {
    /// The authentication contexts with which this issuer asks for a second factor, the preferred one first. They have to
    /// make it say what `mfa_when` looks for.
    pub acr_values: Vec<String>,
    /// How long ago somebody may have signed in where a guardrail wants it to be recent, in seconds, if guardrails take
    /// that; otherwise they sign in anew.
    pub max_age_seconds: Option<u32>,
}

impl StepUp {
    /// Checks that the values can stand in a header, separated by blanks.
    fn validate(&self) -> Result<(), String> {
        let fits = |value: &String| {
            (1..=255).contains(&value.len())
                && value
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
        };
        if self.acr_values.len() <= 10 && self.acr_values.iter().all(fits) {
            Ok(())
        } else {
            Err(
                "`step_up.acr_values` has at most 10 values of 1 to 255 visible ASCII characters without quotes and \
                 backslashes"
                    .to_owned(),
            )
        }
    }
}

/// An issuer of tokens. Times are whole seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Its name in principals and role assignments: lower-case letters, digits and hyphens, 1 to 40. Changing
    /// it makes its principals strangers.
    pub name: String,
    /// Its address: what `iss` says, to the letter.
    pub issuer: String,
    /// What `aud` must name one of.
    pub audiences: Vec<String>,
    /// Which clients' tokens are accepted, by `azp`, `client_id` or `appid`. Without it, those of every client that
    /// the issuer gives a token with our audience.
    #[serde(default)]
    pub authorized_parties: Option<Vec<String>>,
    /// Which algorithms its tokens may use.
    pub algorithms: Vec<SigningAlgorithm>,
    /// Where its keys are. Without it, its discovery document says (`/.well-known/openid-configuration`).
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// What its claims mean.
    #[serde(default)]
    pub claims: ClaimMapping,
    /// What whoever has to prove more is told to ask it for.
    #[serde(default)]
    pub step_up: StepUp,
    /// By how much clocks may differ.
    #[serde(default = "leeway")]
    pub leeway_seconds: u32,
    /// Keys older than this are fetched anew.
    #[serde(default = "refresh")]
    pub refresh_seconds: u32,
    /// Keys older than this are not used, also when the issuer does not answer.
    #[serde(default = "keep")]
    pub keep_seconds: u32,
    /// The least time between two fetches, however many unknown keys tokens name.
    #[serde(default = "pause")]
    pub fetch_pause_seconds: u32,
    /// Its keys may come over plain HTTP from a loopback address; for tests and demonstrations.
    #[serde(default)]
    pub loopback_http: bool,
}

const fn leeway() -> u32 {
    30
}
const fn refresh() -> u32 {
    300
}
const fn keep() -> u32 {
    3600
}
const fn pause() -> u32 {
    10
}

impl IssuerConfig {
    /// Checks what can be checked without the network.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let name_fits = (1..=40).contains(&self.name.len())
            && self
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !name_fits {
            return Err("`name` has 1 to 40 lower-case letters, digits and hyphens".to_owned());
        }
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            return Err("`audiences` names at least one, none of them empty".to_owned());
        }
        if self
            .authorized_parties
            .as_ref()
            .is_some_and(|parties| parties.is_empty() || parties.iter().any(String::is_empty))
        {
            return Err(
                "`authorized_parties`, where it is set, names at least one, none of them empty".to_owned(),
            );
        }
        if self.algorithms.is_empty() {
            return Err("`algorithms` names at least one".to_owned());
        }
        if self.leeway_seconds > 300 {
            return Err("`leeway_seconds` is at most 300".to_owned());
        }
        if self.refresh_seconds == 0
            || self.keep_seconds < self.refresh_seconds
            || self.keep_seconds > 7 * 24 * 3600
            || self.fetch_pause_seconds == 0
            || self.fetch_pause_seconds > self.refresh_seconds
        {
            return Err(
                "0 < `fetch_pause_seconds` <= `refresh_seconds` <= `keep_seconds` <= 604800 does not hold"
                    .to_owned(),
            );
        }
        self.step_up.validate()?;
        self.address(&self.issuer)?;
        self.jwks_uri
            .as_ref()
            .map_or(Ok(()), |uri| self.address(uri).map(drop))
    }

    /// The address that `text` is, if keys may be fetched from there.
    pub(crate) fn address(&self, text: &str) -> Result<Url, String> {
        let url = text.parse::<Url>().map_err(|error| {
            format!(
                "`{}` is not an address: {error}",
                text.chars().take(200).collect::<String>()
            )
        })?;
        self.check_address(&url)?;
        Ok(url)
    }

    /// Whether keys may be fetched from `url`: over https, or over http from a loopback address where that is
    /// allowed.
    fn check_address(&self, url: &Url) -> Result<(), String> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err(format!("`{}` must not carry credentials", url.path()));
        }
        match url.scheme() {
            "https" => Ok(()),
            "http" if is_loopback(url) && self.loopback_http => Ok(()),
            _ => Err(format!(
                "`{url}` is not https (plain http needs a loopback address and `loopback_http`)"
            )),
        }
    }
}
