//! From what a peer sent to a typed struct, or to an error that names the field.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::jsonrpc::RpcError;

/// Parameters as a struct. No parameters at all count as an empty object.
pub fn typed<P: DeserializeOwned>(params: Value) -> Result<P, RpcError> {
    let params = match params {
        Value::Null => Value::Object(serde_json::Map::new()),
        Value::Array(_) => {
            return Err(RpcError::field("params", "an object with named parameters is needed, not a list"));
        }
        other => other,
    };
    serde_path_to_error::deserialize(params).map_err(|e| {
        let path = e.path().to_string();
        let why = e.inner().to_string();
        // At the top the path is "."; then the message itself names the field (missing or unknown). A field that is
        // missing deeper down has no path of its own either.
        match quoted(&why) {
            name if path == "." => RpcError::field(name.unwrap_or("params"), &why),
            Some(name) if why.starts_with("missing field") => RpcError::field(format!("{path}.{name}"), &why),
            _ => RpcError::field(path, &why),
        }
    })
}

/// The first word in backquotes of a message: the field that it speaks of.
fn quoted(message: &str) -> Option<&str> {
    let mut parts = message.split('`');
    parts.next()?;
    parts.next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct P {
        #[allow(dead_code)]
        name: String,
    }

    #[test]
    fn a_missing_field_is_named() {
        let e = typed::<P>(Value::Null).unwrap_err();
        assert_eq!((e.code, e.data), (RpcError::INVALID_PARAMS, Some(json!({"field": "name"}))));
    }

    #[derive(serde::Deserialize, Debug)]
    struct Outer {
        #[allow(dead_code)]
        inner: Vec<P>,
    }

    #[test]
    fn a_field_missing_deep_down_is_named_with_its_place() {
        let e = typed::<Outer>(json!({"inner": [{"name": "x"}, {}]})).unwrap_err();
        assert_eq!(e.data, Some(json!({"field": "inner[1].name"})));
    }

    #[test]
    fn a_list_of_parameters_is_refused() {
        assert!(typed::<P>(json!(["x"])).unwrap_err().message.contains("named parameters"));
    }
}
