//! Images that are sent to the node, piece by piece. The import that follows is an operation.

use ostler_protocol::rpc::guest::work::PIECE_MAX;
use ostler_protocol::rpc::image::{Upload, Uploaded};

use super::Reads;
use crate::compute::causes::image_fault;
use crate::compute::outside::Outside;
use crate::image::Images;
use crate::refusal::{Reason, Refusal};

impl<O: Outside> Reads<O> {
    /// `image.upload`
    ///
    /// # Errors
    /// The piece does not follow what is there, or there is no room for it.
    pub async fn image_upload(&self, upload: Upload) -> Result<Uploaded, Refusal> {
        let Upload { id, offset, data } = upload;
        if data.0.len() > PIECE_MAX {
            let text = format!("data must be at most {PIECE_MAX} bytes: send it in pieces");
            return Err(Refusal::new(Reason::InvalidParams, text).about("parameter data"));
        }
        let size = self.node.images.upload(id, offset, data.0).await;
        Ok(Uploaded { size: size.map_err(|error| image_fault(&error))? })
    }
}
