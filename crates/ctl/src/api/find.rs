//! Where the API is, and who asks.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use hyper::Uri;
use hyper::header::HeaderValue;

use crate::failure::{Exit, Failure, Outcome};
use crate::local::data_dir::{DataArgs, DataDir};
use crate::local::plan::Plan;
use crate::local::process;
use crate::local::role::Role;

/// The user whose password `holdfast up` has in its folder.
const LOCAL_USER: &str = "admin";

/// How to find and to talk to the API of a cluster.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ApiArgs {
    /// Admin API of meta-service; several with commas [default: that of the cluster in --data]
    #[arg(long, value_name = "URL", env = "HOLDFAST_API", hide_env_values = true)]
    pub(crate) api: Option<String>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Bearer token (`holdfast tokens create` makes one)
    #[arg(long, env = "HOLDFAST_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Name of a user, with --password-file
    #[arg(long, env = "HOLDFAST_USER", hide_env_values = true)]
    pub(crate) user: Option<String>,
    /// File with the user's password [default: admin-password in --data, with user admin]
    #[arg(long, value_name = "FILE", env = "HOLDFAST_PASSWORD_FILE", hide_env_values = true)]
    pub(crate) password_file: Option<String>,
    /// Print JSON for scripts; fields are added, none is changed
    #[arg(long, help_heading = None::<&str>)]
    pub(crate) json: bool,
}

/// Addresses of one API, and what every request carries.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// `http://host:port`, without a slash at the end.
    pub(super) urls: Vec<String>,
    pub(super) authorization: Option<HeaderValue>,
}

impl ApiArgs {
    /// The URL that the user named.
    pub(crate) fn named_url(&self) -> Option<&str> {
        self.api.as_deref().filter(|api| !api.trim().is_empty())
    }

    /// Finds the API.
    pub(super) fn find(&self) -> Outcome<Found> {
        let urls = match self.named_url() {
            Some(named) => named.split(',').map(url).collect::<Outcome<Vec<String>>>()?,
            None => self.local_urls()?,
        };
        let authorization = self.authorization(&urls)?;
        Ok(Found { urls, authorization })
    }

    /// Those of the cluster in the data folder.
    fn local_urls(&self) -> Outcome<Vec<String>> {
        let data = &self.data.data;
        let no_cluster = || {
            Failure::new(Exit::NoAnswer, format!("no cluster in {}", data.display()))
                .hint("`holdfast up` starts one; --api or HOLDFAST_API names one elsewhere")
        };
        let dir = DataDir::open(data).ok_or_else(no_cluster)?;
        let metas = Plan::load(&dir)?.ok_or_else(no_cluster)?.of_role(Role::Meta);
        let running = process::running(&metas, &dir);
        if running.is_empty() {
            let message = format!("the cluster in {} does not run", data.display());
            return Err(Failure::new(Exit::NoAnswer, message).hint("`holdfast up` starts it"));
        }
        // A killed one may come back meanwhile, but those that run are asked first.
        let (first, last): (Vec<_>, Vec<_>) =
            metas.into_iter().partition(|meta| running.contains_key(&meta.name));
        let urls: Vec<String> = first
            .into_iter()
            .chain(last)
            .filter_map(|meta| Some(format!("http://{}", meta.admin?)))
            .collect();
        if urls.is_empty() {
            let message =
                format!("the cluster in {} was started without an admin API", data.display());
            return Err(Failure::new(Exit::NoAnswer, message)
                .hint("`holdfast down` and `holdfast up` of this version give it one"));
        }
        Ok(urls)
    }

    fn authorization(&self, urls: &[String]) -> Outcome<Option<HeaderValue>> {
        if let Some(token) = self.token.as_deref().map(str::trim).filter(|token| !token.is_empty())
        {
            return header(format!("Bearer {token}")).map(Some);
        }
        let user = self.user.as_deref().filter(|user| !user.is_empty());
        let file = self.password_file.as_deref().filter(|file| !file.is_empty()).map(Path::new);
        match (user, file) {
            (None, None) => self.local_password(urls),
            (Some(user), None) => Err(Failure::usage(format!("user {user} has no password"))
                .hint("--password-file or HOLDFAST_PASSWORD_FILE names a file with it")),
            (user, Some(file)) => basic(user.unwrap_or(LOCAL_USER), &password(file)?).map(Some),
        }
    }

    /// The password in the data folder, which no other machine is told.
    fn local_password(&self, urls: &[String]) -> Outcome<Option<HeaderValue>> {
        let Some(dir) = DataDir::open(&self.data.data) else { return Ok(None) };
        let file = dir.admin_password();
        if !urls.iter().all(|url| is_loopback(url)) || !file.exists() {
            return Ok(None);
        }
        basic(LOCAL_USER, &password(&file)?).map(Some)
    }
}

impl Found {
    /// Those of the cluster in a folder, with its password; none if there is none yet.
    pub(super) fn local(dir: &DataDir, urls: Vec<String>) -> Option<Found> {
        if urls.is_empty() {
            return None;
        }
        let authorization = basic(LOCAL_USER, &password(&dir.admin_password()).ok()?).ok();
        Some(Found { urls, authorization })
    }
}

/// Checks a URL of the user.
fn url(text: &str) -> Outcome<String> {
    let text = text.trim().trim_end_matches('/').trim_end_matches("/api/v1");
    let wrong = || {
        Failure::usage(format!("{text:?} is no URL of an admin API"))
            .hint("it is written http://host:port")
    };
    if text.starts_with("https://") {
        return Err(Failure::usage(format!("{text}: this command does not speak TLS")).hint(
            "use http:// inside of the cluster, or through `kubectl port-forward` or an SSH tunnel",
        ));
    }
    let text = match text.contains(":/") || text.ends_with(':') {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let is_http = uri.scheme_str() == Some("http");
    let is_bare = uri.path() == "/" && uri.query().is_none();
    // A user belongs to --user, and a port is a number.
    let is_address = uri.authority().is_some_and(|authority| {
        let host = authority.host();
        !host.is_empty()
            && (authority.as_str() == host || authority.port_u16().is_some())
            && !authority.as_str().contains('@')
    });
    if is_http && is_bare && is_address { Ok(text) } else { Err(wrong()) }
}

fn is_loopback(url: &str) -> bool {
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host.is_some_and(|host| {
        let bare = host.trim_matches(['[', ']']);
        bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// The content of a password file.
pub(crate) fn password(file: &Path) -> Outcome<String> {
    let text = fs::read_to_string(file).map_err(|error| {
        Failure::new(Exit::Credentials, format!("password file {}: {error}", file.display()))
    })?;
    match text.trim() {
        "" => Err(Failure::new(
            Exit::Credentials,
            format!("password file {} is empty", file.display()),
        )),
        text => Ok(text.to_owned()),
    }
}

fn basic(user: &str, password: &str) -> Outcome<HeaderValue> {
    header(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn header(text: String) -> Outcome<HeaderValue> {
    let mut value = HeaderValue::try_from(text).map_err(|_| {
        Failure::new(Exit::Credentials, "the token has characters that no token has")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(api: Option<&str>) -> ApiArgs {
        ApiArgs {
            api: api.map(str::to_owned),
            data: DataArgs { data: "/nowhere".into() },
            token: None,
            user: None,
            password_file: None,
            json: false,
        }
    }

    #[test]
    fn urls_are_written_in_several_ways() {
        for text in ["http://a:1", "http://a:1/", "a:1", "http://a:1/api/v1/"] {
            assert_eq!(url(text).expect(text), "http://a:1", "{text}");
        }
        let tls = url("https://a:1").expect_err("refused");
        assert!(tls.exit == Exit::Usage && tls.message.contains("TLS"), "{tls:?}");
        for text in
            ["ftp://a", "http://a:1/other", "http://u:p@a:1", "http://", "a b", "a:b", "http://a:"]
        {
            assert_eq!(url(text).expect_err(text).exit, Exit::Usage, "{text}");
        }
        let found = args(Some("a:1, http://b:2")).find().expect("found");
        assert_eq!(found.urls, ["http://a:1", "http://b:2"]);
    }

    #[test]
    fn credentials_are_a_token_or_a_user_with_a_password_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        fs::write(&file, "secret\n").expect("written");
        let of = |args: ApiArgs| args.find().map(|found| found.authorization);
        let with = ApiArgs { token: Some("hfa_x".to_owned()), ..args(Some("a:1")) };
        assert_eq!(of(with).expect("a token").expect("set"), "Bearer hfa_x");
        let user = ApiArgs { user: Some("eve".to_owned()), ..args(Some("a:1")) };
        assert_eq!(of(user.clone()).expect_err("no password").exit, Exit::Usage);
        let both = ApiArgs { password_file: file.to_str().map(str::to_owned), ..user };
        assert_eq!(of(both.clone()).expect("a password").expect("set"), "Basic ZXZlOnNlY3JldA==");
        let missing = ApiArgs { password_file: Some("/nowhere/none".to_owned()), ..both };
        assert_eq!(of(missing).expect_err("no file").exit, Exit::Credentials);
        assert_eq!(of(args(Some("a:1"))).expect("nothing"), None);
    }

    #[test]
    fn no_cluster_is_no_answer() {
        let failure = args(None).find().expect_err("nothing there");
        assert_eq!(failure.exit, Exit::NoAnswer);
        assert!(failure.hint.expect("a hint").contains("holdfast up"));
    }

    #[test]
    fn loopback_is_told_from_elsewhere() {
        assert!(is_loopback("http://127.0.0.1:1") && is_loopback("http://[::1]:1"));
        assert!(is_loopback("http://localhost:1") && !is_loopback("http://10.0.0.1:1"));
    }
}
