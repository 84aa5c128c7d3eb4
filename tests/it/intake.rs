//! From a message on a real RabbitMQ to a job in a real PostgreSQL, or to the dead queue, whatever breaks on the way.

pub mod ground;
mod outbox;
mod reasons;
mod trouble;
