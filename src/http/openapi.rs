//! The interface, described: OpenAPI 3.1, written by hand in `openapi.json` and held by tests
//! against the routes, the fields, the codes and the answers that this version really has.

/// The document.
#[must_use]
pub fn document() -> String {
    include_str!("openapi.json").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes::Route;
    use crate::http::wire::fields::Field;
    use crate::http::wire::problem::Code;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn parsed() -> Value {
        serde_json::from_str(&document()).unwrap()
    }

    fn keys(value: &Value) -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    }

    fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
        names.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn it_describes_exactly_the_routes_and_methods_there_are() {
        let document = parsed();
        assert_eq!(keys(&document["paths"]), set(Route::all().map(Route::template)));
        for route in Route::all() {
            let described = keys(&document["paths"][route.template()]);
            // HEAD goes with GET and OPTIONS with everything.
            let answered = route.allow().split(", ").filter(|m| !["HEAD", "OPTIONS"].contains(m));
            let answered: BTreeSet<_> = answered.map(str::to_lowercase).collect();
            assert_eq!(described, answered, "{route:?}");
        }
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn it_describes_exactly_the_fields_there_are() {
        let schemas = &parsed()["components"]["schemas"];
        let fields = set(Field::NAMES);
        assert_eq!(keys(&schemas["SegmentRequest"]["properties"]), fields);
        let image = set(Field::NAMES.into_iter().take(Field::IMAGE_FIELDS));
        assert_eq!(keys(&schemas["ImageRequest"]["properties"]), image);
        let files = set(["file", "image"]);
        let form = keys(&schemas["SegmentForm"]["properties"]);
        assert_eq!(form, fields.union(&files).cloned().collect());
        let form = keys(&schemas["ImageForm"]["properties"]);
        assert_eq!(form, image.union(&files).cloned().collect());
    }

    #[test]
    fn it_describes_exactly_the_codes_there_are_each_with_its_status() {
        let document = parsed();
        let codes = &document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"];
        let described = codes.as_array().unwrap().iter().map(|code| code.as_str().unwrap());
        assert_eq!(set(described), set(Code::ALL.iter().map(|code| code.as_str())));
        let post = &document["paths"]["/api/segmentation/sam2"]["post"]["responses"];
        for code in Code::ALL.iter().filter(|code| **code != Code::RangeNotSatisfiable) {
            let reference = post[code.status().as_str()]["$ref"].as_str().unwrap();
            let name = reference.rsplit('/').next().unwrap();
            let response = &document["components"]["responses"][name];
            let text = response["description"].as_str().unwrap();
            assert!(text.contains(&format!("`{}`", code.as_str())), "{code:?} in {text}");
        }
    }

    #[test]
    fn the_page_for_people_names_the_same_routes_fields_and_codes() {
        let page = include_str!("../../docs/API.md");
        let named = |word: &str| page.contains(&format!("`{word}`"));
        for route in Route::all() {
            let methods = route.allow().split(", ").take(1);
            for method in methods {
                let asked = format!("{method} {}", route.template());
                assert!(named(&asked), "`{asked}` is not in docs/API.md");
            }
        }
        for word in Field::NAMES.into_iter().chain(Code::ALL.iter().map(|code| code.as_str())) {
            assert!(named(word), "`{word}` is not in docs/API.md");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, visit: &mut impl FnMut(&str)) {
            match value {
                Value::Object(members) => members.iter().for_each(|(name, member)| {
                    if let Some(target) = member.as_str().filter(|_| name == "$ref") {
                        visit(target);
                    }
                    walk(member, visit);
                }),
                Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
                _ => {}
            }
        }
        let document = parsed();
        let mut count = 0;
        walk(&document, &mut |target| {
            count += 1;
            let pointer = target.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{target}");
        });
        assert!(count > 100);
    }
}
