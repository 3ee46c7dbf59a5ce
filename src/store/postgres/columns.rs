//! A batch as one array a column, which the server takes apart in a fraction of
//! the time that it needs for records out of JSON.
//!
//! What grows with a batch is unnested in a list of results, not in `FROM`,
//! where the server would write down each column before it puts rows together:
//! a third of a settlement. It must never be left to the server in which order
//! rows of a batch come: where that counts, a column says it.

/// Declares a row, and the columns of a batch of such rows, which bind to as
/// many parameters in the order of the fields.
macro_rules! columns {
    (
        $(#[$about_row:meta])*
        struct $row:ident;
        $(#[$about:meta])*
        struct $columns:ident {
            $($(#[$about_field:meta])* $field:ident: $type:ty,)+
        }
    ) => {
        $(#[$about_row])*
        struct $row<'a> {
            $($(#[$about_field])* $field: $type,)+
        }

        $(#[$about])*
        #[derive(Default)]
        pub(super) struct $columns<'a> {
            $($field: Vec<$type>,)+
        }

        impl<'a> $columns<'a> {
            fn push_row(&mut self, row: $row<'a>) {
                $(self.$field.push(row.$field);)+
            }

            pub(super) fn bind<'q>(
                self,
                query: sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>,
            ) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>
            where
                'a: 'q,
            {
                query$(.bind(self.$field))+
            }
        }
    };
}
pub(super) use columns;
