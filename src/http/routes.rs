//! What a path asks for. Routes are few and fixed, so this is a table and not a framework.

use super::editor;
use crate::access::Scope;
use http::Method;

/// A route of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// Segment an image.
    Segment,
    /// Compute and keep an embedding.
    Embed,
    /// The slice as the engine would see it.
    Preview,
    /// A stored mask.
    Mask,
    /// Health, for editors.
    Health,
    /// The old inference service's segmentation.
    OldSegment,
    /// The old inference service's health.
    OldHealth,
    /// The process lives.
    Live,
    /// The engine is ready.
    Ready,
    /// The same in the words of the Open Inference Protocol.
    V2Live,
    /// The same in the words of the Open Inference Protocol.
    V2Ready,
    /// Prometheus.
    Metrics,
    /// This interface, described.
    OpenApi,
    /// The editor's page.
    Page,
    /// A part of the page.
    PagePart,
    /// The JavaScript client.
    Client,
}

/// Where a route lies and how it may be asked.
struct Place {
    route: Route,
    /// The path; `{mask_id}` and `{file}` stand for one segment's part.
    template: &'static str,
    /// For the Allow header.
    allow: &'static str,
}

const GET: &str = "GET, HEAD, OPTIONS";
const POST: &str = "POST, OPTIONS";
/// Below `http.base_paths`.
const API: &str = "/api/";
const MASK_BEFORE: &str = "/api/segmentation/masks/";
const MASK_AFTER: &str = ".png";
const PAGE_PART_BEFORE: &str = "/editor/";

const PLACES: [Place; 16] = [
    Place { route: Route::Segment, template: "/api/segmentation/sam2", allow: POST },
    Place { route: Route::Health, template: "/api/segmentation/sam2/health", allow: GET },
    Place { route: Route::Embed, template: "/api/segmentation/sam2/embed", allow: POST },
    Place { route: Route::Preview, template: "/api/segmentation/preview", allow: POST },
    Place { route: Route::Mask, template: "/api/segmentation/masks/{mask_id}.png", allow: GET },
    Place { route: Route::OldSegment, template: "/segment", allow: POST },
    Place { route: Route::OldHealth, template: "/health", allow: GET },
    Place { route: Route::Live, template: "/livez", allow: GET },
    Place { route: Route::Ready, template: "/readyz", allow: GET },
    Place { route: Route::V2Live, template: "/v2/health/live", allow: GET },
    Place { route: Route::V2Ready, template: "/v2/health/ready", allow: GET },
    Place { route: Route::Metrics, template: "/metrics", allow: GET },
    Place { route: Route::OpenApi, template: "/openapi.json", allow: GET },
    Place { route: Route::Page, template: "/", allow: GET },
    Place { route: Route::PagePart, template: "/editor/{file}", allow: GET },
    Place { route: Route::Client, template: "/client.js", allow: GET },
];

/// A path that is one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched<'a> {
    /// What is asked for.
    pub route: Route,
    /// The prefix of `http.base_paths` that the request came by; links in the answer carry it.
    pub prefix: &'a str,
    /// For [`Route::Mask`], the id in the path; unchecked.
    pub mask_id: &'a str,
}

impl Route {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        PLACES.iter().map(|place| place.route)
    }

    /// The path with its variable part unnamed: fit for logs and metrics.
    #[must_use]
    pub fn template(self) -> &'static str {
        self.place().map_or("", |place| place.template)
    }

    /// Methods answered here, for the Allow header.
    #[must_use]
    pub fn allow(self) -> &'static str {
        self.place().map_or("", |place| place.allow)
    }

    /// Is the method answered here?
    #[must_use]
    pub fn allows(self, method: &Method) -> bool {
        self.allow().split(", ").any(|allowed| allowed == method.as_str())
    }

    /// May a request here need the engine?
    #[must_use]
    pub fn asks_engine(self) -> bool {
        matches!(self, Self::Segment | Self::OldSegment | Self::Embed)
    }

    /// May anybody ask, whoever else needs a token?
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(
            self,
            Self::Health
                | Self::OldHealth
                | Self::Live
                | Self::Ready
                | Self::V2Live
                | Self::V2Ready
                | Self::OpenApi
                | Self::Page
                | Self::PagePart
                | Self::Client
        )
    }

    /// What a token must be good for to be let in here; open routes ask for none.
    #[must_use]
    pub fn scope(self) -> Scope {
        match self {
            Self::Metrics => Scope::Metrics,
            _ => Scope::Segment,
        }
    }

    fn place(self) -> Option<&'static Place> {
        PLACES.iter().find(|place| place.route == self)
    }
}

/// Finds the route of a path, below any of the base paths.
#[must_use]
pub fn resolve<'a>(path: &'a str, base_paths: &'a [String]) -> Option<Matched<'a>> {
    base_paths
        .iter()
        .filter(|prefix| !prefix.is_empty())
        .filter_map(|prefix| Some((&**prefix, path.strip_prefix(&**prefix)?)))
        .filter(|(_, rest)| rest.starts_with(API))
        .find_map(|(prefix, rest)| plain(rest, prefix))
        .or_else(|| plain(path, "").filter(|_| !path.starts_with(API) || has_empty(base_paths)))
}

/// Are the `/api/...` routes answered without a prefix too?
fn has_empty(base_paths: &[String]) -> bool {
    base_paths.iter().any(String::is_empty)
}

fn plain<'a>(path: &'a str, prefix: &'a str) -> Option<Matched<'a>> {
    let mask_id = path.strip_prefix(MASK_BEFORE).and_then(|rest| rest.strip_suffix(MASK_AFTER));
    if let Some(mask_id) = mask_id.filter(|id| !id.is_empty() && !id.contains('/')) {
        return Some(Matched { route: Route::Mask, prefix, mask_id });
    }
    if path.starts_with(PAGE_PART_BEFORE) {
        let route = Route::PagePart;
        return editor::has(path).then_some(Matched { route, prefix, mask_id: "" });
    }
    let place = PLACES.iter().find(|place| place.template == path && place.route != Route::Mask)?;
    Some(Matched { route: place.route, prefix, mask_id: "" })
}

/// The path under which a mask is fetched.
#[must_use]
pub fn mask_path(prefix: &str, mask_id: &str) -> String {
    format!("{prefix}{MASK_BEFORE}{mask_id}{MASK_AFTER}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases() -> Vec<String> {
        vec![String::new(), "/api/ctai".to_owned()]
    }

    #[test]
    fn api_routes_are_repeated_under_every_base_path_and_others_are_not() {
        let bases = bases();
        for route in Route::all() {
            let path = route.template().replace("{mask_id}", "0af").replace("{file}", "app.js");
            let matched = resolve(&path, &bases).unwrap();
            assert_eq!((matched.route, matched.prefix), (route, ""), "{path}");
            let below = format!("/api/ctai{path}");
            let matched = resolve(&below, &bases);
            if path.starts_with("/api/") {
                let matched = matched.unwrap();
                assert_eq!((matched.route, matched.prefix), (route, "/api/ctai"), "{below}");
                let only = ["/api/ctai".to_owned()];
                assert!(resolve(&path, &only).is_none(), "{path}");
            } else {
                assert!(matched.is_none(), "{below}");
                assert!(resolve(&path, &[]).is_some(), "{path}");
            }
        }
    }

    #[test]
    fn paths_that_only_resemble_a_route_are_nothing() {
        for path in [
            "",
            "//",
            "/editor",
            "/editor/",
            "/editor/{file}",
            "/editor/mod.rs",
            "/api",
            "/api/",
            "/segment/",
            "//segment",
            "/Segment",
            "/api/segmentation/sam2/",
            "/api/segmentation/masks/.png",
            "/api/segmentation/masks/a/b.png",
            "/api/segmentation/masks/{mask_id}",
            "/api/segmentation/masks/a",
            "/api/ctai",
            "/api/ctai/segment",
            "/api/ctaiapi/segmentation/sam2",
        ] {
            assert!(resolve(path, &bases()).is_none(), "{path}");
        }
    }

    #[test]
    fn a_mask_s_path_leads_back_to_it() {
        let bases = bases();
        let path = mask_path("/api/ctai", "0af");
        let matched = resolve(&path, &bases).unwrap();
        assert_eq!(
            (matched.route, matched.prefix, matched.mask_id),
            (Route::Mask, "/api/ctai", "0af")
        );
    }

    #[test]
    fn methods_are_told_by_route() {
        assert!(Route::Segment.allows(&Method::POST) && !Route::Segment.allows(&Method::GET));
        assert!(Route::Mask.allows(&Method::HEAD) && !Route::Mask.allows(&Method::DELETE));
    }
}
