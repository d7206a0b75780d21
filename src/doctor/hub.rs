//! Where models come from: the hub, its cache, its token, and STELLA's weights.

use std::env;
use std::path::{Path, PathBuf};

use models::hub::HubSettings;
use serde_json::json;

use super::{Check, GB, Status, free_space};

/// What concerns the hub, in the order of the report.
pub(super) fn checks() -> Vec<Check> {
    let settings = HubSettings::from_env();
    let cache = settings.cache();
    vec![
        hub_endpoint(&settings),
        hub_cache_check(&cache, space_for(&cache)),
        hub_token(settings.token_place()),
        offline(settings.offline, cache.is_dir()),
        stella(env::var_os("INVERSE_STELLA_WEIGHTS").map(PathBuf::from), &cache),
    ]
}

/// The hub that is asked; whether it answers is not tried.
pub(super) fn hub_endpoint(settings: &HubSettings) -> Check {
    const NAME: &str = "HF endpoint";
    let endpoint = settings.endpoint();
    let data = json!({ "endpoint": endpoint });
    if endpoint.starts_with("https://") || endpoint.starts_with("http://") {
        return Check::ok(NAME, endpoint, data);
    }
    let fix = "HF_ENDPOINT must be the root address of a hub, with https:// before it; or unset it";
    Check::not_ok(NAME, Status::Warn, format!("{endpoint:?} is no address"), fix, data)
}

/// Bytes that can be fetched into a folder that may not be there yet.
fn space_for(folder: &Path) -> Option<u64> {
    folder.ancestors().find(|above| above.is_dir()).and_then(free_space)
}

/// The cache, with the free bytes on its disk.
pub(super) fn hub_cache_check(cache: &Path, free: Option<u64>) -> Check {
    const NAME: &str = "HF cache";
    let count = |kind: &str| {
        fs_err::read_dir(cache).map_or(0, |entries| {
            entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(kind)).count()
        })
    };
    let (models, datasets) = (count("models--"), count("datasets--"));
    let said = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut found = match cache.is_dir() {
        false => format!("{} (not there yet)", cache.display()),
        true => format!("{} ({}, {})", cache.display(), said(models, "model"), said(datasets, "data set")),
    };
    let data = json!({ "path": cache, "models": models, "datasets": datasets, "free_bytes": free });
    let Some(free) = free.map(|free| free as f64 / GB) else { return Check::ok(NAME, found, data) };
    found.push_str(&format!(", {free:.1} GB free"));
    if free < 8.0 {
        let fix =
            "the largest encoders are 6 GB: free some space, or set HF_HOME to a folder on another disk";
        return Check::not_ok(NAME, Status::Warn, found, fix, data);
    }
    Check::ok(NAME, found, data)
}

/// Whether there is a token, and where; never the token.
fn hub_token(place: Option<String>) -> Check {
    let found = match &place {
        Some(place) => format!("present ({place})"),
        None => "none: public models only".to_owned(),
    };
    Check::ok("HF token", found, json!({ "present": place.is_some(), "place": place }))
}

pub(super) fn offline(on: bool, cached: bool) -> Check {
    const NAME: &str = "offline mode";
    let data = json!({ "offline": on });
    match (on, cached) {
        (false, _) => Check::ok(NAME, "off: models are fetched when they are needed", data),
        (true, true) => Check::ok(NAME, "on (HF_HUB_OFFLINE): only cached models", data),
        (true, false) => {
            let fix = "unset HF_HUB_OFFLINE, set HF_HOME to a filled cache, or name encoders by their folder";
            let found = "on (HF_HUB_OFFLINE), and there is no cache".to_owned();
            Check::not_ok(NAME, Status::Warn, found, fix, data)
        }
    }
}

/// Where STELLA's weights are, and how they are held against the scores of its model card.
fn stella(given: Option<PathBuf>, cache: &Path) -> Check {
    const NAME: &str = "STELLA";
    const REPOSITORIES: [&str; 2] = ["stella_en_1.5B_v5", "stella_en_400M_v5"];
    let command = |place: &str| {
        format!("INVERSE_STELLA_WEIGHTS={place} cargo test --release -p models --test stella_card")
    };
    if let Some(folder) = given {
        let (place, data) = (folder.display().to_string(), json!({ "path": folder }));
        // a name of the hub is asked for only when the test runs
        let hub_name = !folder.exists() && place.split('/').count() == 2 && !place.starts_with(['/', '.']);
        if hub_name || folder.join("modules.json").is_file() {
            return Check::ok(NAME, format!("{place}; its card's scores: `{}`", command(&place)), data);
        }
        let fix =
            "INVERSE_STELLA_WEIGHTS must be a folder with STELLA's modules.json and weights, or a hub name";
        return Check::not_ok(NAME, Status::Warn, format!("{place} has no modules.json"), fix, data);
    }
    let cached = REPOSITORIES
        .into_iter()
        .find(|name| cache.join(format!("models--NovaSearch--{name}/snapshots")).is_dir());
    let data = json!({ "path": null, "cached": cached });
    let found = match cached {
        Some(name) => {
            let name = format!("NovaSearch/{name}");
            format!("{name} is in the cache; its card's scores: `{}`", command(&name))
        }
        None => format!("not here (fetched when an encoder names it); to test it: `{}`", command("DIR")),
    };
    Check::ok(NAME, found, data)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn stella_is_found_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let here = Some(folder.path().to_owned());
        let nowhere = Path::new("/nowhere");
        assert_eq!(stella(here.clone(), nowhere).status, Status::Warn);
        assert_eq!(stella(Some("NovaSearch/stella_en_1.5B_v5".into()), nowhere).status, Status::Ok);
        fs_err::write(folder.path().join("modules.json"), "[]").unwrap();
        let found = stella(here, nowhere);
        assert!(found.status == Status::Ok && found.found.contains("--test stella_card"), "{found:?}");
        assert!(stella(None, folder.path()).found.starts_with("not here"));
        let cached = folder.path().join("models--NovaSearch--stella_en_400M_v5/snapshots");
        fs_err::create_dir_all(cached).unwrap();
        assert_eq!(stella(None, folder.path()).data["cached"], "stella_en_400M_v5");
    }
}
