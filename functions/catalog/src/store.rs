//! The SQL that several functions share: a category and a product, read as people see them.

use contracts::{
    Currency, Money, ProductId, UserId,
    catalog::{Category, CategoryState, Product, ProductState},
    if_match,
    page::{PageInfo, PageQuery},
};
use platform::{Caller, Error, Result, Timestamp};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::goods::{self, GoodsRefused};

/// How far members are counted.
pub(crate) const MOST_COUNTED: i64 = 10_000;

/// Where a page stands, when one member more than are counted may have been.
pub(crate) fn page_info(page: &PageQuery, counted: i64, next_cursor: Option<String>) -> PageInfo {
    PageInfo {
        total: u64::try_from(counted.min(MOST_COUNTED)).unwrap_or_default(),
        total_is_capped: counted > MOST_COUNTED,
        limit: page.limit,
        offset: page.offset,
        has_more: next_cursor.is_some(),
        next_cursor,
    }
}

/// What the constraints of the tables say no to, in the caller's words.
pub(crate) fn refusal(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(|error| error.constraint()) {
        Some("category_name") => GoodsRefused::NameTaken.into(),
        Some("category_parent") => goods::unknown_category("parent_id").into(),
        Some("product_sku") => GoodsRefused::SkuTaken.into(),
        Some("product_category") => goods::unknown_category("category_id").into(),
        _ => error.into(),
    }
}

/// A category's row, with what is counted of it.
pub(crate) struct CategoryRow {
    pub(crate) id: i64,
    pub(crate) owner_id: Uuid,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) parent_id: Option<i64>,
    pub(crate) product_count: i64,
    pub(crate) version: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl From<CategoryRow> for Category {
    fn from(row: CategoryRow) -> Self {
        Self {
            id: row.id,
            owner_id: UserId(row.owner_id),
            name: row.name,
            description: row.description,
            parent_id: row.parent_id,
            product_count: row.product_count,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Reads a category.
pub(crate) async fn category(connection: &mut PgConnection, id: i64) -> Result<Category> {
    let row = sqlx::query_as!(
        CategoryRow,
        r#"
        select id, owner_id, name, description, parent_id, coalesce(products, 0) as "product_count!", version,
            created_at, updated_at
        from categories left join product_counts on category_id = id where id = $1
        "#,
        id,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.ok_or(GoodsRefused::NoCategory)?.into())
}

/// Locks a category, for somebody who may change it and has seen its version.
pub(crate) async fn lock_category(
    tx: &mut PgConnection,
    id: i64,
    caller: Caller,
    if_match: Option<i64>,
) -> Result<Category> {
    let found = sqlx::query!("select owner_id, version from categories where id = $1 for update", id)
        .fetch_optional(&mut *tx)
        .await?;
    let found = found.ok_or(GoodsRefused::NoCategory)?;
    goods::may_change(caller, UserId(found.owner_id))?;
    if_match::check(if_match, found.version)?;
    category(tx, id).await
}

/// A category as an event carries it.
pub(crate) fn category_state(category: &Category, occurred_at: Timestamp) -> CategoryState {
    CategoryState {
        category_id: category.id,
        version: category.version,
        owner_id: category.owner_id,
        name: category.name.clone(),
        description: category.description.clone(),
        parent_id: category.parent_id,
        created_at: category.created_at,
        occurred_at,
    }
}

/// A product's row, without what it is found by.
pub(crate) struct ProductRow {
    pub(crate) id: Uuid,
    pub(crate) owner_id: Uuid,
    pub(crate) name: String,
    pub(crate) sku: Option<String>,
    pub(crate) description: String,
    pub(crate) currency: String,
    pub(crate) price: i64,
    pub(crate) discount: i16,
    pub(crate) store: String,
    pub(crate) image_urls: Vec<String>,
    pub(crate) category_id: Option<i64>,
    pub(crate) stock: i64,
    pub(crate) version: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl ProductRow {
    /// As everybody sees it.
    pub(crate) fn into_product(self) -> Result<Product> {
        let currency: Currency = self.currency.parse().map_err(anyhow::Error::new)?;
        let price = Money::new(self.price, currency);
        let discount = u8::try_from(self.discount).map_err(anyhow::Error::new)?;
        let final_price = goods::final_price(price, discount);
        let final_price = final_price.ok_or_else(|| anyhow::anyhow!("nothing is left of a price"))?;
        Ok(Product {
            id: ProductId(self.id),
            owner_id: UserId(self.owner_id),
            name: self.name,
            sku: self.sku,
            description: self.description,
            currency,
            price: price.into(),
            discount,
            final_price: final_price.into(),
            store: self.store,
            image_urls: self.image_urls,
            category_id: self.category_id,
            stock: self.stock,
            version: self.version,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// Reads products, the newest first; unknown ids are left out.
pub(crate) async fn products(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Product>> {
    let rows = sqlx::query_as!(
        ProductRow,
        r#"
        select id, owner_id, name, sku, description, currency, price, discount, store, image_urls, category_id, stock,
            version, created_at, updated_at
        from products where id = any($1) order by id desc
        "#,
        ids,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(ProductRow::into_product).collect()
}

/// Reads a product.
pub(crate) async fn product(connection: &mut PgConnection, id: Uuid) -> Result<Product> {
    Ok(products(connection, &[id]).await?.pop().ok_or(GoodsRefused::NoProduct)?)
}

/// Locks a product, for somebody who may change it and has seen its version.
pub(crate) async fn lock_product(
    tx: &mut PgConnection,
    id: ProductId,
    caller: Caller,
    if_match: Option<i64>,
) -> Result<Product> {
    let found = sqlx::query!("select owner_id, version from products where id = $1 for update", id.0)
        .fetch_optional(&mut *tx)
        .await?;
    let found = found.ok_or(GoodsRefused::NoProduct)?;
    goods::may_change(caller, UserId(found.owner_id))?;
    if_match::check(if_match, found.version)?;
    product(tx, id.0).await
}

/// A product as an event carries it.
pub(crate) fn product_state(product: &Product, occurred_at: Timestamp) -> ProductState {
    let product = product.clone();
    ProductState {
        product_id: product.id,
        version: product.version,
        owner_id: product.owner_id,
        name: product.name,
        sku: product.sku,
        description: product.description,
        currency: product.currency,
        price: product.price,
        discount: product.discount,
        final_price: product.final_price,
        store: product.store,
        image_urls: product.image_urls,
        category_id: product.category_id,
        stock: product.stock,
        created_at: product.created_at,
        occurred_at,
    }
}
