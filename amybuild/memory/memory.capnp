# What is known of the original project's node log: every field but those added after @22.
@0xb78d9e3a1c4f6e2d;

struct ContentNode {
  uuid @0 :Data;
  version @1 :UInt32;
  timestamp @2 :Int64;          # unix seconds; logs before its change of type hold the bits of a Float64
  nodeType @3 :NodeType;
  provenanceOld @4 :Provenance;
  key @5 :Text;
  content @6 :Text;
  weight @7 :Float32;
  category @8 :Category;
  emotion @9 :Float32;
  deleted @10 :Bool;
  sourceRef @11 :Text;
  created @12 :Text;
  retrievals @13 :UInt32;
  uses @14 :UInt32;
  wrongs @15 :UInt32;
  stateTag @16 :Text;
  lastReplayed @17 :Int64;
  spacedRepetitionInterval @18 :UInt32;
  position @19 :UInt32;
  createdAt @20 :Int64;
  provenance @21 :Text;
  lastScored @22 :Int64;
}

enum NodeType {
  episodicSession @0;
  episodicDaily @1;
  episodicWeekly @2;
  semantic @3;
  episodicMonthly @4;
}

enum Category {
  general @0;
  core @1;
  technical @2;
  observation @3;
  task @4;
}

enum Provenance {
  manual @0;
  journal @1;
  agent @2;
  dream @3;
  derived @4;
  agentExperienceMine @5;
  agentKnowledgeObservation @6;
  agentKnowledgePattern @7;
  agentKnowledgeConnector @8;
  agentKnowledgeChallenger @9;
  agentConsolidate @10;
  agentDigest @11;
  agentFactMine @12;
  agentDecay @13;
}
