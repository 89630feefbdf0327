//! Options of calls and further operations, with Redis below memory.

integration_tests::operation_cases!(on_redis);
