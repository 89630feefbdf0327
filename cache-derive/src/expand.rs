//! Expands the derive.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Data, DeriveInput, Error, Fields, Generics, Member, Variant, ext::IdentExt, parse_quote, spanned::Spanned};

/// Implements `krate::CacheKey` for the type, or expands to a compile error.
pub(crate) fn derive(input: TokenStream, krate: &TokenStream) -> TokenStream {
    syn::parse2(input).and_then(|input| implement(input, krate)).unwrap_or_else(Error::into_compile_error)
}

fn implement(input: DeriveInput, krate: &TokenStream) -> syn::Result<TokenStream> {
    let body = match &input.data {
        Data::Struct(data) => write_struct(&input.ident, &data.fields, krate)?,
        Data::Enum(data) => {
            let arms = data.variants.iter().map(write_variant);
            quote!(match *self { #(#arms)* })
        }
        Data::Union(_) => {
            let message = "`CacheKey` cannot be derived for a union, because it is unknown which field is valid";
            return Err(Error::new_spanned(&input.ident, message));
        }
    };
    let generics = bounded(input.generics, krate);
    let (impl_generics, type_generics, conditions) = generics.split_for_impl();
    let name = &input.ident;
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #krate::CacheKey for #name #type_generics #conditions {
            fn write_key(&self, out: &mut #krate::KeyWriter) {
                #body
            }
        }
    })
}

fn bounded(mut generics: Generics, krate: &TokenStream) -> Generics {
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#krate::CacheKey));
    }
    generics
}

fn write_struct(name: &Ident, fields: &Fields, krate: &TokenStream) -> syn::Result<TokenStream> {
    if fields.is_empty() {
        let message = "`CacheKey` cannot be derived for a struct without fields: its key would be empty; use a string as \
                       the key, or add a field";
        return Err(Error::new_spanned(name, message));
    }
    if let (Fields::Unnamed(_), 1) = (fields, fields.len()) {
        return Ok(quote!(#krate::CacheKey::write_key(&self.0, out);));
    }
    let writes = fields.iter().zip(fields.members()).map(|(field, member)| {
        // An error about the field's type points to the field.
        quote_spanned!(field.ty.span()=> out.field(&self.#member);)
    });
    Ok(quote!(#(#writes)*))
}

fn write_variant(variant: &Variant) -> TokenStream {
    let name = &variant.ident;
    let text = name.unraw().to_string();
    let members: Vec<Member> = variant.fields.members().collect();
    // Names that no constant of the surrounding code can have.
    let bound: Vec<Ident> =
        (0..members.len()).map(|at| format_ident!("field{at}", span = Span::mixed_site())).collect();
    let writes =
        variant.fields.iter().zip(&bound).map(|(field, bound)| quote_spanned!(field.ty.span()=> out.field(#bound);));
    quote! {
        Self::#name { #(#members: ref #bound),* } => {
            out.field(#text);
            #(#writes)*
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_key_is_refused_with_a_reason() {
        for (input, reason) in [
            (
                quote!(
                    struct Unit;
                ),
                "struct without fields",
            ),
            (
                quote!(
                    struct Empty {}
                ),
                "struct without fields",
            ),
            (
                quote!(
                    struct Empty();
                ),
                "struct without fields",
            ),
            (quote!(union Either { a: u8, b: u16 }), "for a union"),
        ] {
            let expanded = derive(input, &quote!(::cache_core)).to_string();
            assert!(expanded.contains("compile_error") && expanded.contains(reason), "{expanded}");
        }
    }
}
