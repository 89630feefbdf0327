//! Options of calls and further operations, with a database below memory.

integration_tests::operation_cases!(on_each_database);
