-- What is known of the use of role assignments is read from the audit log in turns, after the access review has started.

CREATE INDEX access_reviews_unread ON access_reviews (id) WHERE status = 'open' AND document ? 'unread';
