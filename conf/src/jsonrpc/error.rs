//! Errors as the peer sees them.

use serde_json::{Value, json};

/// A JSON-RPC error object. Codes below −32000 are the protocol's own; ours are negative errno values, as in
/// SPDK (−17: exists, −19: no such device, −16: busy, …).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct RpcError {
    /// Code.
    pub code: i64,
    /// A sentence that says what to do.
    pub message: String,
    /// More for programs: the offending field, for example.
    pub data: Option<Value>,
}

impl RpcError {
    /// The bytes are not JSON.
    pub const PARSE: i64 = -32700;
    /// The JSON is not a request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// No such method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters do not fit.
    pub const INVALID_PARAMS: i64 = -32602;
    /// Something of ours went wrong.
    pub const INTERNAL: i64 = -32603;

    /// An error with a code and a sentence.
    pub fn new(code: i64, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into(), data: None }
    }

    /// Parameters do not fit; `field` says which (dotted path, indices in brackets).
    pub fn field(field: impl Into<String>, why: impl std::fmt::Display) -> RpcError {
        let field = field.into();
        let message = format!("{field}: {why}");
        RpcError { code: Self::INVALID_PARAMS, message, data: Some(json!({ "field": field })) }
    }

    /// The same error about a part of something larger: `place` goes before the field that it names.
    pub fn within(self, place: &str) -> RpcError {
        let field = self.data.as_ref().and_then(|d| d["field"].as_str());
        match field {
            Some(field) => {
                let field = format!("{place}.{field}");
                RpcError {
                    message: format!("{place}.{}", self.message),
                    data: Some(json!({ "field": field })),
                    ..self
                }
            }
            None => RpcError { message: format!("{place}: {}", self.message), ..self },
        }
    }

    /// There is something of this name already (EEXIST).
    pub fn exists(what: impl std::fmt::Display) -> RpcError {
        RpcError::new(-17, format!("{what} exists already"))
    }

    /// There is nothing of this name (ENODEV).
    pub fn missing(what: impl std::fmt::Display) -> RpcError {
        RpcError::new(-19, format!("{what} does not exist"))
    }

    /// It is used by something else (EBUSY).
    pub fn busy(what: impl std::fmt::Display) -> RpcError {
        RpcError::new(-16, what.to_string())
    }

    /// Something of ours, or of the operating system, went wrong.
    pub fn internal(what: impl std::fmt::Display) -> RpcError {
        RpcError::new(Self::INTERNAL, what.to_string())
    }

    /// The error object.
    pub fn to_json(&self) -> Value {
        let mut object = json!({ "code": self.code, "message": self.message });
        if let Some(data) = &self.data {
            object["data"] = data.clone();
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_part_is_named_with_the_part() {
        let e = RpcError::field("lun_id", "too large").within("luns[1]");
        assert_eq!(
            (e.message.as_str(), e.data),
            ("luns[1].lun_id: too large", Some(json!({"field": "luns[1].lun_id"})))
        );
        let e = RpcError::exists("LUN 1").within("luns[1]");
        assert_eq!((e.message.as_str(), e.code), ("luns[1]: LUN 1 exists already", -17));
    }
}
