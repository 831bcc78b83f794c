//! Methods: a table of names, what they take, and the functions behind them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::RpcError;
use crate::params;

/// A parameter as the reference shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name in the `params` object.
    pub name: &'static str,
    /// JSON type, with the unit where there is one.
    pub kind: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// What it means, its default and its limits.
    pub about: &'static str,
}

/// What the reference says of a method.
#[derive(Clone, Copy, Debug)]
pub struct MethodInfo {
    /// Name.
    pub name: &'static str,
    /// One sentence, and what it answers.
    pub about: &'static str,
    /// Its parameters.
    pub params: &'static [Param],
}

type Handler<C> = Box<dyn Fn(&C, Value) -> Result<Value, RpcError> + Send + Sync>;

/// The methods of a server whose handlers share a context `C`.
pub struct Methods<C> {
    table: BTreeMap<&'static str, (MethodInfo, Handler<C>)>,
}

impl<C> Default for Methods<C> {
    fn default() -> Self {
        Methods { table: BTreeMap::new() }
    }
}

impl<C: 'static> Methods<C> {
    /// No methods.
    pub fn new() -> Methods<C> {
        Methods::default()
    }

    /// Adds a method. `P` is a struct with `#[serde(deny_unknown_fields)]`, so that a misspelt parameter is an
    /// error and not a surprise.
    ///
    /// # Panics
    /// If the name is taken: the table is written by us, not by a peer.
    pub fn add<P, R>(
        &mut self,
        info: MethodInfo,
        handler: impl Fn(&C, P) -> Result<R, RpcError> + Send + Sync + 'static,
    ) where
        P: DeserializeOwned,
        R: Serialize,
    {
        let run: Handler<C> = Box::new(move |context, value| {
            let answer = handler(context, params::typed(value)?)?;
            serde_json::to_value(answer).map_err(RpcError::internal)
        });
        let taken = self.table.insert(info.name, (info, run));
        assert!(taken.is_none(), "method {} stands twice in the table", info.name);
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.table.keys().copied()
    }

    /// What the reference says, in order of names.
    pub fn infos(&self) -> impl Iterator<Item = &MethodInfo> + '_ {
        self.table.values().map(|(info, _)| info)
    }

    /// Whether there is a method of that name.
    pub fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Calls one method.
    pub fn call(&self, context: &C, name: &str, params: Value) -> Result<Value, RpcError> {
        let Some((_, handler)) = self.table.get(name) else {
            let why = format!("there is no method {name:?}; rpc_get_methods lists them all");
            return Err(RpcError::new(RpcError::METHOD_NOT_FOUND, why));
        };
        handler(context, params)
    }

    /// Answers a request or a batch; `None` if there is nothing to answer (notifications).
    pub fn answer(&self, context: &C, request: Value) -> Option<Value> {
        match request {
            Value::Array(batch) if batch.is_empty() => Some(failed(
                Value::Null,
                &RpcError::new(RpcError::INVALID_REQUEST, "a batch has at least one request"),
            )),
            Value::Array(batch) => {
                let answers: Vec<Value> =
                    batch.into_iter().filter_map(|one| self.answer_one(context, one)).collect();
                if answers.is_empty() { None } else { Some(Value::Array(answers)) }
            }
            one => self.answer_one(context, one),
        }
    }

    fn answer_one(&self, context: &C, request: Value) -> Option<Value> {
        let bad = |id: Value, why: &str| Some(failed(id, &RpcError::new(RpcError::INVALID_REQUEST, why)));
        let Value::Object(mut object) = request else { return bad(Value::Null, "a request is an object") };
        let id = object.remove("id");
        let shown = id.clone().unwrap_or(Value::Null);
        if !matches!(shown, Value::Null | Value::String(_) | Value::Number(_)) {
            return bad(Value::Null, "id: a number, a string or null");
        }
        if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return bad(shown, "jsonrpc: must be \"2.0\"");
        }
        let Some(Value::String(name)) = object.remove("method") else {
            return bad(shown, "method: a string is needed");
        };
        let params = object.remove("params").unwrap_or(Value::Null);
        let result = self.call(context, &name, params);
        id?; // a notification is carried out and not answered
        Some(match result {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": shown, "result": result }),
            Err(e) => failed(shown, &e),
        })
    }
}

/// An error response.
pub fn failed(id: Value, error: &RpcError) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": error.to_json() })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Add {
        a: u32,
        b: Vec<Inner>,
    }
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        n: u32,
    }

    fn methods() -> Methods<Mutex<u32>> {
        let mut m = Methods::new();
        let info = MethodInfo { name: "add", about: "Adds.", params: &[] };
        m.add(info, |sum: &Mutex<u32>, p: Add| {
            let mut sum = sum.lock().expect("no test panics while holding it");
            *sum += p.a + p.b.iter().map(|i| i.n).sum::<u32>();
            Ok(*sum)
        });
        m
    }

    fn ask(request: Value) -> Option<Value> {
        methods().answer(&Mutex::new(0), request)
    }

    #[test]
    fn a_call_is_answered_with_its_own_id() {
        let answer = ask(json!({"jsonrpc":"2.0","id":"x","method":"add","params":{"a":1,"b":[{"n":2}]}}));
        assert_eq!(answer, Some(json!({"jsonrpc":"2.0","id":"x","result":3})));
    }

    #[test]
    fn a_wrong_parameter_is_named_by_its_path() {
        let answer =
            ask(json!({"jsonrpc":"2.0","id":1,"method":"add","params":{"a":1,"b":[{"n":2},{"n":-1}]}}));
        let error = &answer.unwrap()["error"];
        assert_eq!(error["code"], RpcError::INVALID_PARAMS);
        assert_eq!(error["data"]["field"], "b[1].n");
    }

    #[test]
    fn an_unknown_parameter_is_refused() {
        let answer = ask(json!({"jsonrpc":"2.0","id":1,"method":"add","params":{"a":1,"b":[],"c":0}}));
        assert!(answer.unwrap()["error"]["message"].as_str().unwrap().contains("unknown field `c`"));
    }

    #[test]
    fn a_notification_is_carried_out_in_silence() {
        let (m, sum) = (methods(), Mutex::new(0));
        assert_eq!(m.answer(&sum, json!({"jsonrpc":"2.0","method":"add","params":{"a":5,"b":[]}})), None);
        assert_eq!(*sum.lock().unwrap(), 5);
    }

    #[test]
    fn a_batch_is_answered_as_a_batch_and_bad_members_one_by_one() {
        let answer = ask(json!([7, {"jsonrpc":"2.0","id":2,"method":"nope"}])).unwrap();
        assert_eq!(answer[0]["error"]["code"], RpcError::INVALID_REQUEST);
        assert_eq!(answer[1]["error"]["code"], RpcError::METHOD_NOT_FOUND);
        assert_eq!(ask(json!([])).unwrap()["error"]["code"], RpcError::INVALID_REQUEST);
    }
}
