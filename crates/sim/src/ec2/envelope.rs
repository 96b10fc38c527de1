//! What goes around an answer: the root element with its namespace and request id, and each service's error shape.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::auth::Service;
use super::error::Ec2Error;
use super::xml::Xml;
use crate::http::respond;

/// The API version of EC2 that is spoken.
pub(crate) const EC2_VERSION: &str = "2016-11-15";
/// The API version of STS that is spoken.
pub(crate) const STS_VERSION: &str = "2011-06-15";

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// The answer of an action that succeeded.
pub(crate) fn success(service: Service, action: &str, request_id: &str, inner: &str) -> Response<Bytes> {
    let body = match service {
        Service::Ec2 => {
            let id = Xml::of(|xml| xml.leaf("requestId", request_id));
            let namespace = format!("http://ec2.amazonaws.com/doc/{EC2_VERSION}/");
            format!("{DECLARATION}<{action}Response xmlns=\"{namespace}\">{id}{inner}</{action}Response>")
        }
        Service::Sts => {
            let id = Xml::of(|xml| xml.within("ResponseMetadata", |xml| xml.leaf("RequestId", request_id)));
            let namespace = format!("https://sts.amazonaws.com/doc/{STS_VERSION}/");
            format!("{DECLARATION}<{action}Response xmlns=\"{namespace}\">{inner}{id}</{action}Response>")
        }
    };
    respond(StatusCode::OK, "text/xml;charset=UTF-8", body)
}

/// The answer of an action that was refused: EC2's `<Response><Errors>`, STS's `<ErrorResponse>`.
pub(crate) fn refusal(service: Service, request_id: &str, error: &Ec2Error) -> Response<Bytes> {
    let body = match service {
        Service::Ec2 => Xml::of(|xml| {
            xml.within("Response", |xml| {
                xml.within("Errors", |xml| {
                    xml.within("Error", |xml| {
                        xml.leaf("Code", &error.code);
                        xml.leaf("Message", &error.message);
                    });
                });
                xml.leaf("RequestID", request_id);
            });
        }),
        Service::Sts => {
            let blamed = if error.status.is_server_error() {
                "Receiver"
            } else {
                "Sender"
            };
            let inner = Xml::of(|xml| {
                xml.within("Error", |xml| {
                    xml.leaf("Type", blamed);
                    xml.leaf("Code", &error.code);
                    xml.leaf("Message", &error.message);
                });
                xml.leaf("RequestId", request_id);
            });
            let namespace = format!("https://sts.amazonaws.com/doc/{STS_VERSION}/");
            format!("<ErrorResponse xmlns=\"{namespace}\">{inner}</ErrorResponse>")
        }
    };
    respond(
        error.status,
        "text/xml;charset=UTF-8",
        format!("{DECLARATION}{body}"),
    )
}
