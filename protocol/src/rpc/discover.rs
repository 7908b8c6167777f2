//! The interface described by itself: an OpenRPC document, made from the types that decode it.
//!
//! What goes in is closed: a word or a member that is not in the document is refused. What comes
//! out is open, since words and members are added to it: a client that was made from an older
//! document takes them for something it does not know.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::fault::Fault;
use super::method::documented;
use super::schemas::{SCHEMAS, Schemas};
use super::{envelope, event, versions};

/// The OpenRPC 1.3 document of all methods, made from the types.
pub fn openrpc(agent_version: &str) -> Value {
    let mut schemas = Schemas::new();
    let mut methods = documented(&mut schemas);
    let mut others = json!({
        "x-error": schemas.shown.subschema_for::<Fault>(),
        "x-event": schemas.shown.subschema_for::<event::Event>(),
        "x-context": schemas.given.subschema_for::<envelope::Context>(),
    });
    let mut shown = schemas.shown.take_definitions(true);
    shown.values_mut().for_each(open);
    // What goes in and comes out has two schemas, where one is open and one is closed.
    let mut given = schemas.given.take_definitions(true);
    let both = given.keys().filter(|name| shown.get(*name).is_some_and(|s| *s != given[*name]));
    let names: BTreeMap<_, _> =
        both.map(|name| (format!("#{SCHEMAS}/{name}"), format!("{name}Param"))).collect();
    given.values_mut().for_each(|schema| rename(schema, &names));
    rename(&mut others["x-context"], &names);
    for method in &mut methods {
        rename(&mut method["params"], &names);
        open(&mut method["result"]["schema"]);
    }
    for (name, schema) in given {
        let name = names.get(&format!("#{SCHEMAS}/{name}")).unwrap_or(&name);
        shown.insert(name.clone(), schema);
    }
    let mut document = json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "Ostler host agent",
            "version": agent_version,
            "x-protocol": { "current": versions::CURRENT, "oldest": versions::OLDEST },
        },
        "methods": methods,
        "components": { "schemas": shown },
    });
    if let (Some(document), Some(others)) = (document.as_object_mut(), others.as_object_mut()) {
        document.append(others);
    }
    document
}

/// Have a schema take words and members that will be added.
fn open(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(open);
            if members.get("additionalProperties") == Some(&Value::Bool(false)) {
                members.remove("additionalProperties");
            }
            let known = match (members.remove("oneOf"), members.remove("enum")) {
                (Some(Value::Array(known)), _) => known,
                (_, Some(words)) => vec![json!({"enum": words})],
                (Some(_) | None, None) => return,
            };
            let newer = json!({"description": "What is newer than this document."});
            let open: Vec<_> = known.into_iter().chain([newer]).collect();
            members.insert("anyOf".to_owned(), open.into());
        }
        Value::Array(list) => list.iter_mut().for_each(open),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Have a schema name others by their new names.
fn rename(schema: &mut Value, names: &BTreeMap<String, String>) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(|member| rename(member, names));
            if let Some(Value::String(reference)) = members.get_mut("$ref")
                && let Some(name) = names.get(reference)
            {
                *reference = format!("#{SCHEMAS}/{name}");
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|member| rename(member, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::method::NAMES;
    use super::*;
    use serde_json::Map;

    fn methods(document: &Value) -> &[Value] {
        document["methods"].as_array().unwrap()
    }

    /// Each object of a document.
    fn each(value: &Value, what: &mut dyn FnMut(&Map<String, Value>)) {
        match value {
            Value::Object(members) => {
                what(members);
                members.values().for_each(|member| each(member, what));
            }
            Value::Array(list) => list.iter().for_each(|member| each(member, what)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_method_is_documented_and_what_must_be_there_comes_first() {
        let document = openrpc("0");
        assert_eq!(methods(&document).len(), NAMES.len());
        assert!(document["components"]["schemas"]["Operation"].is_object());
        for method in methods(&document) {
            let params = method["params"].as_array().unwrap();
            let required: Vec<_> = params.iter().map(|p| p["required"] == true).collect();
            assert!(required.is_sorted_by(|a, b| a >= b), "{method:#}");
            assert!(!method["errors"].as_array().unwrap().is_empty());
        }
        let boot = methods(&document).iter().find(|m| m["name"] == "instance.boot").unwrap();
        assert_eq!(boot["params"][0]["required"], true);
    }

    #[test]
    fn every_schema_has_a_name_people_can_use_and_is_there() {
        let document = openrpc("0");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for name in schemas.keys() {
            let numbered = name.ends_with(|c: char| c.is_ascii_digit());
            assert!(!numbered || ["Sha256", "Sha512"].contains(&name.as_str()), "{name}");
        }
        each(&document, &mut |object| {
            if let Some(Value::String(reference)) = object.get("$ref") {
                let name = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(schemas.contains_key(name), "{reference}");
            }
        });
    }

    #[test]
    fn what_goes_in_is_closed_and_what_comes_out_is_open() {
        let document = openrpc("0");
        let schemas = &document["components"]["schemas"];
        for name in ["Operation", "Instance", "Host", "Flavor", "Format", "Fault"] {
            each(&schemas[name], &mut |object| {
                let closed = object.get("additionalProperties") == Some(&Value::Bool(false));
                assert!(!closed && !object.contains_key("oneOf"), "{name}: {object:?}");
            });
        }
        assert!(schemas["Format"]["anyOf"].is_array(), "{:#}", schemas["Format"]);
        let format = &schemas["FormatParam"];
        assert!(format["oneOf"].is_array() || format["enum"].is_array(), "{format:#}");
        let import = methods(&document).iter().find(|m| m["name"] == "image.import").unwrap();
        assert!(import.to_string().contains("FormatParam"), "{import:#}");
    }
}
