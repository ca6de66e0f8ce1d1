//! Where the control plane is: flag > environment > context > what `cellctl dev` uses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cell_client::Link;
use serde::Deserialize;

use crate::cli::Global;
use crate::failure::{Exit, Failure};

/// Where `cellctl dev` listens, so that commands beside it need no options.
pub(crate) const DEV_CONTROL_PORTS: [u16; 3] = [7401, 7402, 7403];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    current_context: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Context {
    endpoints: Vec<String>,
    #[serde(default)]
    routers: Vec<String>,
    identity: Option<PathBuf>,
    #[serde(default)]
    insecure_plaintext: bool,
}

/// The control nodes that a command talks to.
///
/// # Errors
/// A context that does not exist, a configuration file that cannot be read, an endpoint that is not `host:port`.
pub(crate) fn resolve(global: &Global) -> Result<Target, Failure> {
    let context = of_context(global)?;
    let endpoints = if global.endpoints.is_empty() { context.endpoints } else { global.endpoints.clone() };
    if let Some(bad) = endpoints.iter().find(|endpoint| !is_host_port(endpoint)) {
        return Err(Failure::usage(
            format!("{bad:?} is not host:port"),
            "as in --endpoints 10.0.0.1:7401,10.0.0.2:7401",
        ));
    }
    let plaintext = global.insecure_plaintext;
    let identity = global.identity.clone().filter(|directory| !directory.as_os_str().is_empty());
    let identity = identity.or(context.identity).filter(|_| !plaintext);
    let link = Link::open(identity.as_deref(), plaintext || context.insecure_plaintext).map_err(|error| {
        let (code, hint) = (error.code(), error.hint());
        Failure { exit: Exit::Usage, ..Failure::new(code, format!("{:#}", anyhow::Error::from(error)), hint) }
    })?;
    Ok(Target { endpoints, link })
}

/// Where the routers answer operators: what was said, else what the context knows.
///
/// # Errors
/// As [`resolve`]; and where no router is known.
pub(crate) fn routers(global: &Global, said: &[String]) -> Result<Vec<String>, Failure> {
    let hint = "as in --router 10.0.1.1:9901,10.0.1.2:9901, or `routers = [\"10.0.1.1:9901\"]` in the context: what \
                a router calls admin-listen";
    let routers = if said.is_empty() { of_context(global)?.routers } else { said.to_vec() };
    if routers.is_empty() {
        let hint = format!(
            "{hint}. No command but `cellctl dev`, which writes a context of its own, sets it: add the line to \
             [contexts.NAME] in ~/.config/cellctl/config.toml, or in the file that --config names"
        );
        return Err(Failure::usage("no router is known to ask: the context has no `routers`", hint));
    }
    match routers.iter().find(|router| !is_host_port(router)) {
        Some(bad) => Err(Failure::usage(format!("{bad:?} is not host:port"), hint)),
        None => Ok(routers),
    }
}

/// Where the control plane is, and as whom it is called.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Its nodes.
    pub endpoints: Vec<String>,
    /// With this identity, or in plaintext.
    pub link: Link,
}

fn of_context(global: &Global) -> Result<Context, Failure> {
    // A variable that is set to nothing is not set.
    let named = global.config.clone().filter(|file| !file.as_os_str().is_empty());
    let file = named
        .clone()
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config/cellctl/config.toml")));
    let config = match &file {
        Some(file) if named.is_some() || file.exists() => read(file)?,
        Some(_) | None => Config::default(),
    };
    let Some(name) = global.context.clone().or(config.current_context) else {
        let endpoints = DEV_CONTROL_PORTS.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        return Ok(Context { endpoints, ..Context::default() });
    };
    let known = if config.contexts.is_empty() {
        "no context at all: add one, or say --endpoints".to_owned()
    } else {
        config.contexts.keys().cloned().collect::<Vec<_>>().join(", ")
    };
    match config.contexts.into_iter().find(|(known, _)| *known == name) {
        Some((_, context)) if !context.endpoints.is_empty() => Ok(context),
        Some(_) => {
            Err(Failure::usage(format!("context {name} has no endpoints"), "add them to the configuration file"))
        }
        None => Err(Failure::usage(
            format!("there is no context {name}"),
            format!("the configuration file has: {known}"),
        )),
    }
}

fn read(file: &Path) -> Result<Config, Failure> {
    let hint = "correct the file, or say --endpoints";
    let unreadable = |reason: String| Failure::usage(format!("cannot read {}: {reason}", file.display()), hint);
    let text = std::fs::read_to_string(file).map_err(|error| unreadable(error.to_string()))?;
    toml::from_str(&text).map_err(|error| unreadable(error.to_string()))
}

pub(crate) fn is_host_port(endpoint: &str) -> bool {
    endpoint.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::Output;

    #[test]
    fn who_knows_no_router_is_told_where_to_write_one_and_what_writes_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, TWO).unwrap();
        let error = routers(&Global { config: Some(file), ..global() }, &[]).unwrap_err();
        let said = format!("{error:?}");
        for named in ["has no `routers`", "--router", "[contexts.NAME]", "--config", "cellctl dev"] {
            assert!(said.contains(named), "{named}: {said}");
        }
    }

    fn global() -> Global {
        Global {
            endpoints: Vec::new(),
            context: None,
            identity: None,
            insecure_plaintext: true,
            config: None,
            output: Output::Table,
            no_headers: false,
            timeout: Duration::from_secs(1),
            request_id: None,
            expected_revision: None,
            stale: false,
        }
    }

    fn with_config(text: &str, context: Option<&str>) -> Result<Vec<String>, Failure> {
        Ok(target_with_config(text, context)?.endpoints)
    }

    fn target_with_config(text: &str, context: Option<&str>) -> Result<Target, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        resolve(&Global { config: Some(file), context: context.map(str::to_owned), ..global() })
    }

    const TWO: &str =
        "current-context = 'a'\n[contexts.a]\nendpoints = ['h:1']\n[contexts.b]\nendpoints = ['h:2', 'h:3']\n";

    #[test]
    fn what_is_said_overrides_what_is_written() {
        assert_eq!(with_config(TWO, None).unwrap(), ["h:1"]);
        assert_eq!(with_config(TWO, Some("b")).unwrap(), ["h:2", "h:3"]);
        let said = resolve(&Global { endpoints: vec!["h:9".into()], ..global() });
        assert_eq!(said.unwrap().endpoints, ["h:9"]);
    }

    #[test]
    fn nobody_calls_without_saying_who_he_is() {
        let nameless = resolve(&Global { insecure_plaintext: false, ..global() }).unwrap_err();
        assert_eq!((nameless.exit, nameless.code.as_str()), (Exit::Usage, "IDENTITY_REQUIRED"));
        assert!(nameless.hint.contains("--identity"), "{nameless}");
        let nowhere = Global { insecure_plaintext: false, identity: Some("/nowhere".into()), ..global() };
        assert_eq!(resolve(&nowhere).unwrap_err().code, "IDENTITY_UNREADABLE");
    }

    #[test]
    fn what_makes_no_sense_is_wrong_usage_and_says_what_would() {
        let unknown = with_config(TWO, Some("c")).unwrap_err();
        assert_eq!((unknown.exit, unknown.hint.as_str()), (Exit::Usage, "the configuration file has: a, b"));
        let none = with_config("", Some("c")).unwrap_err();
        assert!(none.hint.contains("no context at all") && none.hint.contains("--endpoints"), "{none}");
        assert_eq!(with_config("endpoint = 1", None).unwrap_err().exit, Exit::Usage);
        for bad in ["h", "h:", ":1", "h:99999"] {
            let refused = resolve(&Global { endpoints: vec![bad.into()], ..global() }).unwrap_err();
            assert_eq!(refused.exit, Exit::Usage, "{bad}");
        }
        let missing = resolve(&Global { config: Some("/nowhere/config.toml".into()), ..global() }).unwrap_err();
        assert!(missing.message.contains("/nowhere/config.toml"));
    }
}
