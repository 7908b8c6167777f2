//! The schemas of what methods take and give, for the document of [`discover`](super::discover).

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::fault::Reason;

/// Where the schemas of a document are.
pub(super) const SCHEMAS: &str = "/components/schemas";

/// Makes the schemas of a document.
pub(super) struct Schemas {
    pub(super) given: SchemaGenerator,
    pub(super) shown: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = SchemaSettings::draft07().with(|settings| {
            settings.definitions_path = SCHEMAS.into();
        });
        let shown = settings.clone().for_serialize().into_generator();
        Self { given: settings.into_generator(), shown }
    }

    /// One method, in OpenRPC's words.
    pub(super) fn method<P: JsonSchema, R: JsonSchema>(
        &mut self,
        name: &str,
        summary: &str,
        refusals: &[Reason],
    ) -> Value {
        let params = self.given.root_schema_for::<P>();
        let none = Map::new();
        let properties = params.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let required = params.get("required").and_then(Value::as_array);
        let is_required = |field: &str| {
            required.is_some_and(|names| names.iter().any(|name| name.as_str() == Some(field)))
        };
        let mut fields: Vec<_> = properties.iter().collect();
        // OpenRPC wants what must be there before what may be.
        fields.sort_by_key(|(field, _)| !is_required(field));
        let fields: Vec<_> = fields
            .into_iter()
            .map(|(field, schema)| {
                json!({"name": field, "required": is_required(field), "schema": schema})
            })
            .collect();
        let errors: Vec<_> = refusals.iter().copied().map(error).collect();
        json!({
            "name": name,
            "summary": summary,
            "paramStructure": "by-name",
            "params": fields,
            "result": { "name": "result", "schema": self.shown.subschema_for::<R>() },
            "errors": errors,
        })
    }
}

/// A refusal, in OpenRPC's words.
fn error(reason: Reason) -> Value {
    json!({"code": reason.code(), "message": reason, "data": {"reason": reason}})
}
