//! Publishing with confirmation, on whichever connection: the broker says when it has a message.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, PublisherConfirm};

use super::{Ended, amqp};

/// A channel on which the broker confirms what is published.
pub(super) async fn confirming(connection: &Connection) -> Result<Channel, Ended> {
    let channel = connection.create_channel().await.map_err(amqp("open a channel"))?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .map_err(amqp("have messages confirmed"))?;
    Ok(channel)
}

/// Publish; the confirmation is to be awaited, for the library keeps one that is dropped.
pub(super) async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions::default();
    channel.basic_publish(exchange.into(), key.into(), options, body, properties).await
}
