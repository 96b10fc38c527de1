//! Calls about who may do what: roles, role assignments, their access reviews, and what a check says.

use reqwest::Method;

use super::{Client, ClientError, DRY_RUN};
use crate::{
    access_check::{AccessCheck, AccessCheckQuery},
    access_review::{
        AccessReview, AccessReviewCancel, AccessReviewCreate, AccessReviewItem, AccessReviewItemDecide,
        AccessReviewItemQuery, AccessReviewQuery,
    },
    page::Page,
    role::{Role, RoleAssignment, RoleAssignmentCreate, RoleAssignmentPlan, RoleAssignmentQuery, RoleCreate},
};

impl Client {
    /// Every role, built in and custom.
    pub async fn roles(&self) -> Result<Page<Role>, ClientError> {
        self.get(&["v1", "roles"], &()).await
    }

    /// Makes a custom role.
    pub async fn create_role(&self, key: Option<&str>, role: &RoleCreate) -> Result<Role, ClientError> {
        self.post(&["v1", "roles"], key, role).await
    }

    /// Removes a custom role that nobody has.
    pub async fn delete_role(&self, name: &str) -> Result<(), ClientError> {
        Self::send(self.call(Method::DELETE, &["v1", "roles", name]))
            .await
            .map(drop)
    }

    /// Lists role assignments.
    pub async fn role_assignments(
        &self,
        query: &RoleAssignmentQuery,
    ) -> Result<Page<RoleAssignment>, ClientError> {
        self.get(&["v1", "role-assignments"], query).await
    }

    /// Makes a role assignment.
    pub async fn create_role_assignment(
        &self,
        key: Option<&str>,
        assignment: &RoleAssignmentCreate,
    ) -> Result<RoleAssignment, ClientError> {
        self.post(&["v1", "role-assignments"], key, assignment).await
    }

    /// What making the role assignment would do.
    pub async fn plan_create_role_assignment(
        &self,
        assignment: &RoleAssignmentCreate,
    ) -> Result<RoleAssignmentPlan, ClientError> {
        let call = self.call(Method::POST, &["v1", "role-assignments"]);
        Self::read(call.query(&DRY_RUN).json(assignment)).await
    }

    /// What removing the role assignment would do.
    pub async fn plan_delete_role_assignment(&self, id: &str) -> Result<RoleAssignmentPlan, ClientError> {
        let call = self.call(Method::DELETE, &["v1", "role-assignments", id]);
        Self::read(call.query(&DRY_RUN)).await
    }

    /// Removes a role assignment.
    pub async fn delete_role_assignment(&self, id: &str) -> Result<(), ClientError> {
        Self::send(self.call(Method::DELETE, &["v1", "role-assignments", id]))
            .await
            .map(drop)
    }

    /// May somebody do something somewhere, and what says so?
    pub async fn access_check(&self, query: &AccessCheckQuery) -> Result<AccessCheck, ClientError> {
        let call = self.call(Method::GET, &["v1", "access-check"]);
        Self::read(call.query(query).query(&query.repeated())).await
    }

    /// Lists access reviews of role assignments.
    pub async fn access_reviews(&self, query: &AccessReviewQuery) -> Result<Page<AccessReview>, ClientError> {
        self.get(&["v1", "access-reviews"], query).await
    }

    /// One access review.
    pub async fn access_review(&self, id: &str) -> Result<AccessReview, ClientError> {
        self.get(&["v1", "access-reviews", id], &()).await
    }

    /// Lists the items of an access review.
    pub async fn access_review_items(
        &self,
        id: &str,
        query: &AccessReviewItemQuery,
    ) -> Result<Page<AccessReviewItem>, ClientError> {
        self.get(&["v1", "access-reviews", id, "items"], query).await
    }

    /// Starts an access review.
    pub async fn create_access_review(
        &self,
        key: Option<&str>,
        create: &AccessReviewCreate,
    ) -> Result<AccessReview, ClientError> {
        self.post(&["v1", "access-reviews"], key, create).await
    }

    /// Ends an access review early, and its further rounds.
    pub async fn cancel_access_review(
        &self,
        id: &str,
        key: Option<&str>,
        cancel: &AccessReviewCancel,
    ) -> Result<AccessReview, ClientError> {
        self.post(&["v1", "access-reviews", id, "cancel"], key, cancel)
            .await
    }

    /// Decides about an item of an access review.
    pub async fn decide_access_review_item(
        &self,
        id: &str,
        key: Option<&str>,
        decide: &AccessReviewItemDecide,
    ) -> Result<AccessReviewItem, ClientError> {
        self.post(&["v1", "access-review-items", id, "decide"], key, decide)
            .await
    }
}
